"""Turns a stock model into one for which padding does not count.

Plan, then apply: the feature maps are followed once (`trace`), and each layer that looks sideways is given its
exact form and the extent of its input. At run time a layer asks the pass in progress for its regions; nothing
is tracked from operation to operation.

The model keeps its class as a base, its methods, its state-dict keys, and stays deep-copyable.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from unsquare.errors import ExactError
from unsquare.exact.operations import FeatureMap
from unsquare.exact.regions import Batch, Extent, Mark, Passes
from unsquare.exact.registry import exact_class, overlaid, stock_class
from unsquare.exact.strips import clean
from unsquare.exact.trace import trace


def make_exact(model: nn.Module) -> nn.Module:
    """A copy of a model that gives every image what the model would give it alone, unpadded.

    The copy is called as `model(pixels, sizes)`: `pixels` (N, 3, H, W), normalised, each image at the top left of
    the canvas; `sizes` (N, 2) integers, best on the host, each image's height and width. What lies outside is
    ignored, whatever it holds. Without `sizes` the whole canvas is real. It returns what the model returns; a
    feature map is zero outside the images' regions (see `output_regions`).

    Args:
        model: A stock model; not changed.

    Returns:
        The exact copy. Raises ExactError with the module's path where something cannot be made exact.
    """
    exact = copy.deepcopy(model)
    _convert(exact)
    return exact


def output_regions(model: nn.Module, sizes: Tensor) -> Tensor:
    """The regions (N, 2) of the feature map that an exact model returns for images of these sizes (N, 2)."""
    if not isinstance(model, ExactModel):
        raise ExactError(f"{type(model).__name__} is not exact; pass it to make_exact first.")
    if model.output_map is None:
        raise ExactError(
            f"{stock_class(model).__name__} returns a vector per image, not a feature map; build it with "
            "num_classes=0 and global_pool=''."
        )
    return model.output_map.extent.of(sizes)


class ExactModel(nn.Module):
    """Laid over a model's own class: opens a pass around each call."""

    passes: Passes
    output_map: FeatureMap | None
    features_map: FeatureMap | None

    def forward(self, pixels: Tensor, sizes: Tensor | None = None, **options: Any) -> Tensor:
        """What the model returns for each image of sizes (N, 2) alone."""
        return self._within_pass(super().forward, pixels, sizes, self.output_map, options)

    def forward_features(self, pixels: Tensor, sizes: Tensor | None = None) -> Tensor:
        """The feature map of each image alone, zero outside its region."""
        method: Callable[..., Tensor] = super().forward_features  # type: ignore[misc]
        if self.passes.in_progress:  # called by forward, which cleans what it returns
            return method(pixels)
        return self._within_pass(method, pixels, sizes, self.features_map, {})

    def reset_classifier(self, *args: Any, **kwargs: Any) -> None:
        """As the model's own, and the new head is made exact."""
        super().reset_classifier(*args, **kwargs)  # type: ignore[misc]
        _convert(self)

    def prune_intermediate_layers(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own, and what remains is made exact."""
        kept = super().prune_intermediate_layers(*args, **kwargs)  # type: ignore[misc]
        _convert(self)
        return kept

    def _within_pass(
        self,
        method: Callable[..., Tensor],
        pixels: Tensor,
        sizes: Tensor | None,
        returned: FeatureMap | None,
        options: dict[str, Any],
    ) -> Tensor:
        batch = Batch(_checked(sizes, pixels), (pixels.shape[2], pixels.shape[3]), pixels.device)
        before = self.passes.begin(batch)
        try:
            output = method(_entered(pixels, batch), **options)
            if returned is not None and returned.axes == (2, 3):
                output = clean(output, batch.regions(returned.extent), shared=True)
        finally:
            self.passes.begin(before)
        return Mark.apply(output, self.passes, batch) if output.requires_grad else output


def _convert(model: nn.Module) -> None:
    """Give every layer its exact form in place; layers that have one are given their extents anew."""
    found = trace(model)
    features = trace(model, "forward_features").output if hasattr(model, "forward_features") else None
    passes = model.passes if isinstance(model, ExactModel) else Passes()
    modules: dict[str, Any] = dict(model.named_modules())
    for path, given in found.inputs.items():
        layer = modules[path]
        exact = exact_class(layer)
        assert exact is not None
        layer.__class__ = overlaid(exact, stock_class(layer))
        layer.extent, layer.passes, layer.input_is_clean = given.extent, passes, given.clean
    root: Any = model
    if not isinstance(model, ExactModel):
        root.__class__ = overlaid(ExactModel, type(model))
    root.passes, root.output_map, root.features_map = passes, found.output, features


def _checked(sizes: Tensor | None, pixels: Tensor) -> Tensor | None:
    """Sizes (N, 2) as int64 on the host."""
    if pixels.ndim != 4:
        raise ExactError(f"pixels must be (N, 3, height, width), but have shape {tuple(pixels.shape)}.")
    if sizes is None:
        return None
    if sizes.shape != (len(pixels), 2) or sizes.is_floating_point():
        raise ExactError(
            f"sizes must be integers of shape ({len(pixels)}, 2), a height and width for each image, but are "
            f"{sizes.dtype} of shape {tuple(sizes.shape)}."
        )
    sizes = sizes.detach().to("cpu", torch.int64)
    canvas = torch.tensor(pixels.shape[2:])
    if ((sizes < 1) | (sizes > canvas)).any():
        wrong = sizes[((sizes < 1) | (sizes > canvas)).any(dim=1)][0].tolist()
        raise ExactError(
            f"sizes must lie between 1 and the canvas of {canvas[0]} x {canvas[1]}, but one is "
            f"{wrong[0]} x {wrong[1]}; sizes are height first."
        )
    return sizes


def _entered(pixels: Tensor, batch: Batch) -> Tensor:
    """The pixels, channels-last, with zeros outside the images; never the caller's own memory if it changes."""
    entered = pixels.contiguous(memory_format=torch.channels_last)
    if batch.sizes is None or bool((batch.sizes == torch.tensor(batch.canvas)).all()):
        return entered
    if entered.data_ptr() == pixels.data_ptr():
        entered = entered.clone(memory_format=torch.channels_last)
    # Slices, because three channels make short rows and this is done once; NaNs are overwritten too.
    for image, (high, wide) in zip(entered.data, batch.sizes.tolist()):
        image[:, high:].zero_()
        image[:, :high, wide:].zero_()
    return clean(entered, batch.regions(Extent())) if pixels.requires_grad else entered
