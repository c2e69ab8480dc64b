"""A padded batch against the reference, each image alone: how far outputs and gradients of an exact network are off.

The padding is filled with NaN, so that the smallest leak shows. Gradients are those of parameters and pixels: a
step whose way back alone mixes pixels may have no parameter before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from unsquare.errors import ExactError
from unsquare.exact.model import known_method
from unsquare.exact.registry import stock_class
from unsquare.exact.tracing.feature_maps import FeatureMap
from unsquare.exact.tracing.trace import num_channels
from unsquare.exact.verify.reference import (
    WithoutNoise,
    gradient_errors,
    largest_error,
    reference_outputs,
    relative_error,
    replica,
)
from unsquare.torch_private import NormBase, tree_leaves

# Two runs of the reference on the same pixels differ by less, in spacings of their numbers: threads add in any order.
_REPEAT_SPACINGS = 100
_NUM_REPEATS = 3


class StockRunError(ExactError):
    """The stock network fails on single images of these sizes."""


class NondeterministicError(ExactError):
    """The stock network gives the same pixels another output each time."""


@dataclass(frozen=True)
class ExactnessErrors:
    """How far a padded batch is from the reference, in one mode: largest difference / largest reference value.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> errors = unsquare.verify_exact(network, max_side=32).evaluation
        >>> errors.outputs < 1e-10 < errors.naive_outputs
        True
    """

    outputs: float
    gradients: float
    """The worst of all parameters."""
    naive_outputs: float
    """The stock model on the same batch, padded with zeros."""
    naive_gradients: float
    own_outputs: float
    """How far the reference's own outputs move when each pixel changes by its rounding."""
    own_gradients: float


def drawn_images(sizes: Sequence[tuple[int, int]], model: nn.Module, seed: int) -> list[Tensor]:
    """Images (C, h, w) of these heights and widths, for a model's channels, number type and device."""
    parameter = next(model.parameters(), torch.zeros((), dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(num_channels(model), *size, generator=generator, dtype=torch.float64).to(parameter)
        for size in sizes
    ]


def compare(exact: nn.Module, stock: nn.Module, images: Sequence[Tensor], canvas: tuple[int, int]) -> ExactnessErrors:
    """Measure a padded batch, and naive padding beside it, in the mode that both models are in.

    Args:
        exact: The exact model.
        stock: The stock model, with the same weights.
        images: (C, h, w) each.
        canvas: (height, width), no smaller than any image.

    Raises:
        StockRunError: The stock model fails on one of the images.
        NondeterministicError: It gives other outputs each time.
    """
    reference = Reference.of(stock, images)
    reference.check_repeats()
    rounded = reference.rounded()
    found = reference.errors(exact, _run_exact(exact, reference.images, canvas), rounded)
    pixels, sizes = padded(reference.images, 0.0, canvas)
    naive = reference.errors(stock, _by_image(_run(stock, pixels), _returned(exact), sizes), rounded)
    return ExactnessErrors(
        *found, *naive, reference.output_error(rounded.outputs), reference.gradients_off(rounded.gradients)
    )


@dataclass(frozen=True)
class Tolerance:
    """Errors that are no leak."""

    outputs: float
    gradients: float
    allowance: float
    """How many times the reference's own rounding an error may be; 0 ignores rounding."""


def output_leak(exact: nn.Module, reference: Reference, order: Sequence[int], tolerance: Tolerance) -> float | None:
    """The error of a batch's outputs, where no rounding explains it; None where there is none.

    Args:
        exact: The exact model.
        reference: What the stock model gives each image alone.
        order: The batch, as places of these images, each as often as it comes.
        tolerance: Errors that are no leak.

    Raises:
        NondeterministicError: The stock model gives other outputs each time.
    """
    with torch.no_grad():
        error = reference.output_error(_run_exact(exact, [reference.images[place] for place in order]), order)
    if error <= tolerance.outputs:
        return None
    if tolerance.allowance:
        if error <= tolerance.allowance * reference.output_error(reference.rounded().outputs):
            return None
        reference.check_repeats([error], tolerance.allowance)
    return error


def leak(exact: nn.Module, reference: Reference, tolerance: Tolerance) -> tuple[str, float] | None:
    """The first of outputs and gradients that no rounding explains, and its error; None where there is none.

    Args:
        exact: The exact model.
        reference: What the stock model gives each image alone.
        tolerance: Errors that are no leak.

    Raises:
        NondeterministicError: The stock model gives other outputs each time.
    """
    bounds = (tolerance.outputs, tolerance.gradients)
    found = reference.errors(exact, _run_exact(exact, reference.images))
    if tolerance.allowance and not _within(found, bounds):
        reference.check_repeats(found, tolerance.allowance)
        rounded = reference.rounded()
        found = reference.errors(exact, _run_exact(exact, reference.images), rounded)
        own = (reference.output_error(rounded.outputs), reference.gradients_off(rounded.gradients))
        bounds = (max(bounds[0], tolerance.allowance * own[0]), max(bounds[1], tolerance.allowance * own[1]))
    if _within(found, bounds):
        return None
    return ("outputs", found[0]) if not found[0] <= bounds[0] else ("gradients", found[1])


def _within(errors: Sequence[float], bounds: Sequence[float]) -> bool:
    return all(error <= bound for error, bound in zip(errors, bounds))  # false for what is no number


def moving_state(stock: nn.Module, image: Tensor) -> tuple[str, ...]:
    """Names of the buffers that one forward pass moves, beside the running statistics of norms."""
    statistics = {
        f"{path}.{name}".lstrip(".")
        for path, module in stock.named_modules()
        if isinstance(module, NormBase)
        for name, _ in module.named_buffers(recurse=False)
    }
    moved = replica(stock)
    with torch.no_grad(), WithoutNoise():
        moved(image.detach().expand(2, *image.shape))
    before = dict(stock.named_buffers())
    return tuple(
        name for name, value in moved.named_buffers() if name not in statistics and not torch.equal(value, before[name])
    )


def padded(images: Sequence[Tensor], value: float, canvas: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Images at the top left of a canvas, (N, C, H, W), and their sizes (N, 2)."""
    sizes = torch.tensor([image.shape[1:] for image in images])
    pixels = images[0].new_full((len(images), images[0].shape[0], *canvas), value)
    for place, image in enumerate(images):
        pixels[place, :, : image.shape[1], : image.shape[2]] = image
    return pixels, sizes


@dataclass(frozen=True)
class Reference:
    """What a stock model gives each image alone."""

    stock: nn.Module
    images: list[Tensor]
    """(C, h, w) each, leaves whose gradients are compared as well."""
    outputs: list[Tensor]
    """Each tensor that each image gives, image by image."""

    @classmethod
    def of(cls, stock: nn.Module, images: Sequence[Tensor]) -> Reference:
        """Run a stock model on each image alone, in its mode."""
        leaves = [image.detach().requires_grad_() for image in images]
        try:
            outputs = _alone(stock, leaves)
        except Exception as error:  # the model's code may raise anything
            raise StockRunError(
                f"The stock {type(stock).__name__} fails on a single image of these sizes ({error}); choose others."
            ) from error
        return cls(stock, leaves, outputs)

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        """Gradients of the outputs, by parameter and by image."""
        try:
            return _gradients(self.stock, self.outputs, self.images)
        except Exception as error:  # the model's code may raise anything
            raise StockRunError(
                f"The stock {type(self.stock).__name__} fails in its backward pass ({str(error).rstrip('.')}); check "
                "that it trains on its own."
            ) from error

    @property
    def has_own_backward(self) -> bool:
        """Whether the stock model took a step whose backward pass is not PyTorch's own."""
        nodes = [output.grad_fn for output in self.outputs]
        seen = set(nodes)
        while nodes:
            node = nodes.pop()
            if isinstance(node, torch.autograd.function.BackwardCFunction):
                return True
            before = {before for before, _ in getattr(node, "next_functions", ())} - seen
            nodes.extend(before)
            seen |= before
        return False

    def errors(self, model: nn.Module, outputs: list[Tensor], rounded: Reference | None = None) -> tuple[float, float]:
        """How far a model's outputs, and their gradients, are from the reference."""
        _ = self.gradients  # first: what fails there is the stock model's fault
        worst = self.output_error(outputs)
        return worst, self.gradients_off(_gradients(model, outputs, self.images), rounded)

    def output_error(self, outputs: list[Tensor], order: Sequence[int] | None = None) -> float:
        """How far outputs are from the reference's; of its images in this order, if given."""
        expected = self.outputs
        if order is not None:
            each = len(expected) // len(self.images)
            expected = [output for place in order for output in expected[place * each : (place + 1) * each]]
        return _worst(outputs, expected)

    def gradients_off(self, gradients: dict[str, Tensor], rounded: Reference | None = None) -> float:
        """How far gradients are from the reference's; see `references.gradient_errors`."""
        noise = None if rounded is None else rounded.gradients
        return largest_error(gradient_errors(gradients, self.gradients, noise).values())

    def rounded(self) -> Reference:
        """The reference for images each of whose pixels is off by up to the spacing of its numbers."""
        return Reference.of(self.stock, [_rounded(image.detach()) for image in self.images])

    def check_repeats(self, errors: Sequence[float] = (), allowance: float = inf) -> None:
        """Raise NondeterministicError where the same images give other outputs, so that nothing can be said of a model.

        Args:
            errors: Of a model's outputs and gradients; where any is above what chance explains, it says enough.
            allowance: How many times the difference of two runs chance explains.
        """
        with torch.no_grad():
            differs = max(self.output_error(_alone(self.stock, self.images)) for _ in range(_NUM_REPEATS))
        if differs <= _REPEAT_SPACINGS * torch.finfo(self.images[0].dtype).eps:
            return
        if not errors or _within(errors, [allowance * noise for noise in self._noise()]):
            mode = "training" if self.stock.training else "evaluation"
            raise NondeterministicError(
                "A network can be compared only if it gives the same pixels the same output each time, but in "
                f"{mode} two runs of the stock {stock_class(self.stock).__name__} differ by {differs:.1e}: it draws "
                "random numbers, or keeps state outside its modules; pass one that does not"
                + (", or verify evaluation alone." if self.stock.training else ".")
            )

    def _noise(self) -> tuple[float, float]:
        """How far outputs and gradients are off in other runs, at most."""
        others = [Reference.of(self.stock, self.images) for _ in range(_NUM_REPEATS)]
        outputs = max(self.output_error(other.outputs) for other in others)
        return outputs, max(self.gradients_off(other.gradients) for other in others)


def _run_exact(exact: nn.Module, images: list[Tensor], canvas: tuple[int, int] | None = None) -> list[Tensor]:
    """Each image's outputs in a padded batch; without a canvas on the smallest that holds them."""
    canvas = canvas or (max(image.shape[1] for image in images), max(image.shape[2] for image in images))
    pixels, sizes = padded(images, float("nan"), canvas)
    return _by_image(_run(exact, pixels, sizes), _returned(exact), sizes)


def _returned(exact: nn.Module) -> tuple[FeatureMap | None, ...]:
    return known_method(exact).outputs[exact.training]


def _alone(stock: nn.Module, images: list[Tensor]) -> list[Tensor]:
    """Each tensor that each image alone gives; the model's running statistics stay as they are."""
    before = [buffer.clone() for buffer in stock.buffers()] if stock.training else []
    try:
        return [leaf[0] for output in reference_outputs(stock, images) for leaf in tree_leaves(output)]
    finally:
        with torch.no_grad():
            for buffer, value in zip(stock.buffers(), before):
                buffer.copy_(value)


def _run(model: nn.Module, *inputs: Tensor) -> Any:
    with WithoutNoise():
        return replica(model)(*inputs)


def _rounded(image: Tensor) -> Tensor:
    """The image with each pixel off by up to the spacing of its numbers."""
    generator = torch.Generator().manual_seed(image.shape[1])
    noise = torch.rand(image.shape, generator=generator, dtype=torch.float64) * 2 - 1
    return image * (1 + torch.finfo(image.dtype).eps * noise).to(image)


def _by_image(output: Any, returned: Sequence[FeatureMap | None], sizes: Tensor) -> list[Tensor]:
    """Each image's part of each tensor, as the image alone gives it."""
    parts = []
    leaves = tree_leaves(output)
    if any(len(leaf) != len(sizes) for leaf in leaves):
        raise ExactError(f"{len(sizes)} images give {len(leaves[0])} rows of outputs")
    for image in range(len(sizes)):
        for leaf, found in zip(leaves, returned):
            part = leaf[image]
            if found is not None:
                for axis, side in zip(found.axes, found.extent.of(sizes)[image].tolist()):
                    part = part.narrow(axis - 1, 0, side)
            parts.append(part)
    return parts


def _gradients(model: nn.Module, outputs: list[Tensor], images: Sequence[Tensor]) -> dict[str, Tensor]:
    """Gradients of a weighted sum of all outputs, by parameter and by image; neither keeps them."""
    total = torch.zeros((), dtype=outputs[0].dtype, device=outputs[0].device)
    for weight, output in enumerate(outputs, start=1):
        total = total + weight * (output * torch.linspace(-1, 1, output.numel()).to(output).view_as(output)).sum()
    if total.requires_grad:  # there are networks without parameters
        with WithoutNoise():  # checkpointed blocks run again
            total.backward()
    leaves = {**dict(model.named_parameters()), **{f"image {place}": image for place, image in enumerate(images)}}
    gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    for leaf in leaves.values():
        leaf.grad = None
    return gradients


def _worst(actual: list[Tensor], expected: list[Tensor]) -> float:
    if any(one.shape != other.shape for one, other in zip(actual, expected)):
        return inf
    return relative_error(torch.cat([one.flatten() for one in actual]), torch.cat([one.flatten() for one in expected]))
