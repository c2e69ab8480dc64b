"""An exact model at work: opens a pass around each call, and knows what its methods return.

It keeps its own class as a base, its methods and its state-dict keys, and stays deep-copyable; `convert` makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unsquare.errors import ExactError
from unsquare.exact.calls import ExactCalls, replacing_calls
from unsquare.exact.extent import Extent
from unsquare.exact.ops.strips import clean
from unsquare.exact.regions import BatchRegions, Passes, Regions
from unsquare.exact.registry import PLAIN_BATCH_NORMS, stock_class
from unsquare.exact.tracing.feature_maps import FeatureMap
from unsquare.settings import received
from unsquare.torch_private import tree_flatten, tree_unflatten


def output_regions(model: nn.Module, sizes: Tensor, method: str = "forward") -> Tensor | list[Tensor | None]:
    """The region of the feature map that an exact model returns for each image: its height and width in the map.

    Args:
        model: an exact model.
        sizes: (N, 2) integers, each image's height and width in pixels.
        method: which of its methods: "forward", or "forward_features".

    Returns:
        One tensor, (N, 2); where the model returns several maps, as timm's `features_only` does, a list of them, in
        order, with None for a vector.

    Raises:
        ExactError: the model is not exact or returns vectors alone, it has no such method, or `sizes` are no sizes.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> exact = unsquare.make_exact(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU()))
        >>> unsquare.output_regions(exact, torch.tensor([[48, 64], [64, 32]])).tolist()
        [[23, 31], [31, 15]]
    """
    returned = known_method(model, method).outputs[model.training]
    if not any(returned):
        raise ExactError(
            f"{stock_class(model).__name__} returns a vector per image, not a feature map; take its output as it "
            "is, or build a network of timm's with num_classes=0 and global_pool=''."
        )
    sizes = _whole_sizes(sizes)
    if not torch.compiler.is_compiling() and sizes.device.type == "cpu" and (sizes < 1).any():
        raise ExactError(f"sizes must be at least 1, but one is {int(sizes.min())}.")
    regions = [None if found is None else found.extent.of(sizes) for found in returned]
    (first, *others) = regions
    return regions if others or first is None else first


def side_multiple(model: nn.Module) -> int:
    """The number of which heights and widths must be multiples for an exact model; 1 for nearly all.

    Above 1 where paths of different stride meet, so that the stock model fails on other images as well.
    """
    return _multiple(known_method(model).joins)


def known_method(model: nn.Module, name: str = "forward") -> ExactMethod:
    """What is known of a method of an exact model; raises ExactError where it cannot be exact."""
    if not isinstance(model, ExactModel):
        raise ExactError(f"{type(model).__name__} is not exact; pass it to make_exact first.")
    if name not in model.exact_methods:
        raise ExactError(f"method must be one of {', '.join(model.exact_methods)}, but is {received(name)}.")
    method = model.exact_methods[name]
    if isinstance(method, ExactError):
        raise method
    return method


def require_network(model: Any, function: str) -> None:
    """Raise ExactError where what a function was given is no network."""
    if not isinstance(model, nn.Module):
        raise ExactError(f"{function} takes a network, an nn.Module, but got {received(model)}; build it first.")


def _whole_sizes(sizes: Any) -> Tensor:
    """Sizes (N, 2) as a tensor of whole numbers, wherever they are."""
    try:
        found = sizes if isinstance(sizes, Tensor) else torch.as_tensor(sizes)
    except (TypeError, ValueError, RuntimeError):
        found = torch.empty(0)
    if found.ndim != 2 or found.shape[1] != 2 or found.is_floating_point() or found.dtype == torch.bool:
        given = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(sizes, Tensor) else received(sizes)
        raise ExactError(f"sizes must be integers of shape (N, 2), a height and width for each image, but are {given}.")
    return found


class ExactModel(nn.Module):
    """Laid over a model's own class: opens a pass around each call."""

    exact_passes: Passes
    exact_methods: dict[str, ExactMethod | ExactError]
    """What is known of each method that opens a pass, or why it cannot be exact."""
    exact_renew: Callable[[nn.Module], None]
    """Gives layers that were put in since their exact forms."""

    def forward(self, pixels: Tensor, sizes: Tensor | None = None, **options: Any) -> Any:
        """What the model returns for each image of sizes (N, 2) alone."""
        if options:
            raise ExactError(
                f"An exact model takes pixels and sizes alone, since other arguments may change its steps, but got "
                f"{', '.join(options)}; set it on the stock model before it is made exact."
            )
        method = super().forward
        return run_within(self, "forward", lambda batch: method(entered(pixels, batch)), pixels, sizes)

    def forward_features(self, pixels: Tensor, sizes: Tensor | None = None) -> Tensor:
        """The feature map of each image alone, zero outside its region."""
        method: Callable[..., Tensor] = super().forward_features  # type: ignore[misc]
        if self.exact_passes.in_progress:  # called by forward, which cleans what it returns
            return method(pixels)
        return run_within(self, "forward_features", lambda batch: method(entered(pixels, batch)), pixels, sizes)

    def forward_head(self, x: Tensor, *args: Any, **options: Any) -> Any:
        """The head on what `forward_features` returned, each image over its own region."""
        method: Callable[..., Any] = super().forward_head  # type: ignore[misc]
        batch = getattr(x, "exact_batch", None)
        if self.exact_passes.in_progress or batch is None:
            return method(x, *args, **options)
        if known_method(self).calls[self.training]:
            raise ExactError(
                f"The head of {stock_class(self).__name__} is exact only as part of the model; call the whole model."
            )
        before = self.exact_passes.begin(batch)
        try:
            output = method(x, *args, **options)
        finally:
            self.exact_passes.begin(before)
        self.exact_passes.mark(output, batch)
        return output

    def reset_classifier(self, *args: Any, **kwargs: Any) -> None:
        """As the model's own, and the new head is made exact."""
        super().reset_classifier(*args, **kwargs)  # type: ignore[misc]
        self.exact_renew(self)

    def prune_intermediate_layers(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own, and what remains is made exact."""
        kept = super().prune_intermediate_layers(*args, **kwargs)  # type: ignore[misc]
        self.exact_renew(self)
        return kept


def run_within(
    model: ExactModel, name: str, run: Callable[[BatchRegions], Any], pixels: Tensor, sizes: Tensor | None
) -> Any:
    """What `run` returns for a batch of pixels (N, 3, H, W), in place of a method of the model that does the same."""
    if not torch.compiler.is_compiling() and any(type(module) in PLAIN_BATCH_NORMS for module in model.modules()):
        model.exact_renew(model)  # batch norms were synchronized since: PyTorch and timm put new layers in their place
    method = known_method(model, name)
    batch = _batch(model, pixels, sizes, method)
    before = model.exact_passes.begin(batch)
    try:
        with replacing_calls(model.exact_passes, method.calls[model.training], type(model).__name__):
            output = run(batch)
        leaves, structure = tree_flatten(output)
        leaves = [_left(leaf, batch, found) for leaf, found in zip(leaves, method.outputs[model.training])]
    finally:
        model.exact_passes.begin(before)
    for leaf in leaves:
        model.exact_passes.mark(leaf, batch)
    if name == "forward_features" and not torch.compiler.is_compiling():
        leaves[0].exact_batch = batch  # for `forward_head`
    return tree_unflatten(leaves, structure)


def _batch(model: ExactModel, pixels: Tensor, sizes: Any, method: ExactMethod) -> BatchRegions:
    if not isinstance(pixels, Tensor) or pixels.ndim != 4:
        given = f"have shape {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else f"are {received(pixels)}"
        raise ExactError(f"pixels must be a tensor (N, 3, height, width), but {given}.")
    canvas = (pixels.shape[2], pixels.shape[3])
    if torch.compiler.is_compiling() and sizes is not None:
        return BatchRegions(sizes.to(pixels.device, torch.int64), canvas, pixels.device, by_masks=True)
    checked = _checked(sizes, pixels, method.joins)
    if model.exact_passes.by_masks and checked is not None:
        return BatchRegions(checked.to(pixels.device), canvas, pixels.device, by_masks=True)
    return BatchRegions(checked, canvas, pixels.device)


@dataclass(frozen=True)
class ExactMethod:
    """What is known of one of a model's methods."""

    outputs: dict[bool, tuple[FeatureMap | None, ...]]
    """What it returns, tensor by tensor, by `training`: a map, or None for one vector per image."""
    joins: dict[tuple[Extent, Extent], str]
    """Extents that must come to the same for each image, and where."""
    calls: dict[bool, ExactCalls]
    """Functional calls in the model's own code, by `training`."""

    @property
    def returned(self) -> FeatureMap | None:
        """The one map that it returns; None where it returns vectors, or several maps."""
        returned = self.outputs[False]
        return returned[0] if len(returned) == 1 else None


def _map_regions(batch: BatchRegions, extent: Extent) -> Regions | None:
    regions = batch.regions((extent,), extent.of_canvas(batch.canvas))
    return None if regions is None or regions.full else regions


def _checked(sizes: Any, pixels: Tensor, joins: dict[tuple[Extent, Extent], str]) -> Tensor | None:
    """Sizes (N, 2) as int64 on the host."""
    if sizes is None:
        return None
    sizes = _whole_sizes(sizes)
    if len(sizes) != len(pixels):
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
    for (one, other), where in joins.items():
        every = torch.cat([sizes, canvas[None]])
        differs = (one.of(every) != other.of(every)).any(dim=1)
        if differs.any():
            height, width = every[differs][0].tolist()
            what = "A canvas" if differs[-1] and not differs[:-1].any() else "An image"
            raise ExactError(
                f"{what} of {height} x {width} pixels leads to maps of different sizes that meet at {where}, where the "
                f"stock model fails as well; use heights and widths that are multiples of {_multiple(joins)}."
            )
    return sizes


def _multiple(joins: dict[tuple[Extent, Extent], str]) -> int:
    """The smallest number whose multiples suit all paths that meet."""
    for multiple in range(1, 1024):
        sizes = torch.arange(1, 65)[:, None].expand(-1, 2) * multiple
        if all(torch.equal(one.of(sizes), other.of(sizes)) for one, other in joins):
            return multiple
    return 1024


def _left(output: Tensor, batch: BatchRegions, found: FeatureMap | None) -> Tensor:
    """What the model returns, with zeros outside the regions if it is a map."""
    regions = None if found is None else _map_regions(batch, found.extent)
    if found is None or regions is None:
        return output
    if output.ndim == 4 and found.axes == (2, 3):
        return clean(output, regions, shared=True)
    shape = [length if axis in (0, *found.axes) else 1 for axis, length in enumerate(output.shape)]
    return torch.where(regions.inside.reshape(shape), output, 0.0)


def entered(pixels: Tensor, batch: BatchRegions) -> Tensor:
    """The pixels, channels-last, with zeros outside the images; never the caller's own memory if it changes."""
    entered = pixels.contiguous(memory_format=torch.channels_last)
    if batch.by_masks:
        return clean(entered, _map_regions(batch, Extent()))
    if batch.sizes is None or bool((batch.sizes == torch.tensor(batch.canvas)).all()):
        return entered
    if entered.data_ptr() == pixels.data_ptr():
        entered = entered.clone(memory_format=torch.channels_last)
    # Slices, because three channels make short rows and this is done once; NaNs are overwritten too.
    for image, (high, wide) in zip(entered.data, batch.sizes.tolist()):
        image[:, high:].zero_()
        image[:, :high, wide:].zero_()
    return clean(entered, _map_regions(batch, Extent())) if pixels.requires_grad else entered
