"""Measures how far a padded batch is from lone images: for the exact model, and for naive padding beside it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from unsquare.errors import ConfigError, ExactError
from unsquare.exact import lone
from unsquare.exact.convert import ExactModel, known_method, make_exact, side_multiple
from unsquare.exact.following import StockError
from unsquare.exact.operations import FeatureMap
from unsquare.exact.registry import stock_class
from unsquare.exact.trace import num_channels
from unsquare.settings import Range, Seed, checks_arguments
from unsquare.shapes import checked_sizes
from unsquare.torchvision_guard import import_timm

TOLERANCES = {"float64": 1e-10, "float32": 1e-5}
"""The largest error that rounding explains, by number type."""

# How much more than the roundings of one image the roundings in all layers may be.
_ALLOWANCE = 10

ROUNDING_LIMITS = {"float64": 1e-6, "float32": 1e-4}
"""The largest error that a network's own rounding may excuse, by number type.

The first is a tenth of what counts as rounding in float32, in which networks train; the second lies below what naive
padding does. A network that rounding alone moves further cannot be judged in this arithmetic.
"""

# Two runs of lone images on the same pixels differ by less, in spacings of their numbers: threads add in any order.
_REPEAT_SPACINGS = 100

_NUM_CLASSES = 7
_LARGER_SIDES = (224, 248)


@dataclass(frozen=True)
class Errors:
    """How far a padded batch is from lone images, in one mode: largest difference / largest reference value."""

    outputs: float
    gradients: float
    """The worst of all parameters."""
    naive_outputs: float
    """The stock model on the same batch, padded with zeros."""
    naive_gradients: float
    own_outputs: float
    """How far the lone images' own outputs move when each pixel changes by its rounding."""
    own_gradients: float


@dataclass(frozen=True)
class Verification:
    """What was measured of one model."""

    model: str
    sizes: tuple[tuple[int, int], ...]
    """Heights and widths of the images, in pixels."""
    dtype: str
    tolerance: float
    evaluation: Errors | None
    training: Errors | None
    """With batch norms over the real pixels of all images, dropout and stochastic depth switched off."""
    refused: str | None = None
    """Why the model cannot be made exact."""

    @property
    def exact(self) -> bool:
        """Whether all errors are within the tolerance, or within what rounding does to lone images."""
        return self.status == "exact"

    @property
    def status(self) -> str:
        """One word: exact, inexact, ill-conditioned, or refused.

        Ill-conditioned means that rounding explains the errors, but is so large itself that it would hide a leak.
        """
        if self.refused:
            return "refused"
        found = {
            self._judged(error, own)
            for mode in (self.evaluation, self.training)
            if mode is not None
            for error, own in ((mode.outputs, mode.own_outputs), (mode.gradients, mode.own_gradients))
        }
        return next((word for word in ("inexact", "ill-conditioned", "exact") if word in found), "inexact")

    def _judged(self, error: float, own: float) -> str:
        if error <= self.tolerance or error <= min(_ALLOWANCE * own, ROUNDING_LIMITS[self.dtype]):
            return "exact"
        return "ill-conditioned" if error <= _ALLOWANCE * own else "inexact"  # inexact if not a number

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON; an error that is not a finite number is None."""
        values = {**asdict(self), "status": self.status}
        for mode in ("evaluation", "training"):
            if values[mode] is not None:
                values[mode] = {name: error if isfinite(error) else None for name, error in values[mode].items()}
        return values


@checks_arguments
def verify_exact(
    model: nn.Module | str,
    *,
    sizes: Sequence[tuple[int, int]] | None = None,
    num_images: Annotated[int, Range(2, 1024)] = 3,
    max_side: Annotated[int, Range(16, 1 << 12)] = 160,
    seed: Seed = 0,
    dtype: Literal["float64", "float32"] = "float64",
    tolerance: Annotated[float, Range(0)] | None = None,
    training: bool = True,
    pretrained: bool = False,
) -> Verification:
    """Compare a padded batch with lone images, on random images.

    Args:
        model: A stock model, or the name of one of timm's. A model is taken with its own weights and is not changed; a
            name is built with random weights, every gain, bias and statistic away from 0 and 1, where errors hide.
        sizes: Heights and widths of the images; None draws them.
        num_images: How many sizes are drawn: from 2, since one is never padded, to 1,024, since all are held at once.
        max_side: The largest side drawn, in pixels, from 16, below which few models run, to 4,096, at which few fit;
            models that refuse images so small get sides from 224 on.
        seed: Of sizes, pixels and weights.
        dtype: "float64", which leaves rounding no excuse, or "float32".
        tolerance: The largest error that is exact whatever rounding does; None takes 1e-10 or 1e-5.
        training: Whether to measure training as well as evaluation.
        pretrained: Whether a name is built with timm's pretrained weights, from the hub.

    Returns:
        The errors; `refused` says why where the model cannot be made exact.

    Raises:
        ConfigError: there is no such model, or the settings do not suit.
        ExactError: the stock model itself fails, perhaps on images of such sizes alone, or gives other outputs
            each time.
    """
    chosen = None if sizes is None else _checked_sizes(sizes)
    name, stock = _stock(model, pretrained, seed)
    chosen = chosen or _drawn_sizes(num_images, (max_side * 5 // 8, max_side), seed)
    tolerance = TOLERANCES[dtype] if tolerance is None else tolerance
    try:
        exact = make_exact(stock)  # as it is: a dropout that cannot be exact is refused, not switched off
    except ExactError as error:
        if isinstance(error, StockError) and isinstance(model, nn.Module):  # a mistake in it is for its author to mend
            raise
        return Verification(name, tuple(chosen), dtype, tolerance, None, None, refused=str(error))
    stock, exact = (lone.without_chance(each).to(getattr(torch, dtype)) for each in (stock, exact))
    for parameter in (*stock.parameters(), *exact.parameters()):  # frozen ones are measured too
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        return _verified(name, stock, exact, chosen, dtype, tolerance, training, seed)
    except ExactError:
        if sizes is not None or max_side >= _LARGER_SIDES[1]:
            raise
        chosen = _drawn_sizes(num_images, _LARGER_SIDES, seed)
        return _verified(name, stock, exact, chosen, dtype, tolerance, training, seed)


def _checked_sizes(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    found = [(int(height), int(width)) for height, width in checked_sizes(sizes).reshape(-1, 2)]
    if len(found) < 2:
        raise ConfigError(f"Verifying needs two or more images, since one is never padded, but got {len(found)}.")
    return found


def _verified(
    name: str,
    stock: nn.Module,
    exact: nn.Module,
    sizes: list[tuple[int, int]],
    dtype: str,
    tolerance: float,
    training: bool,
    seed: int,
) -> Verification:
    multiple = side_multiple(exact)
    sizes = [(_whole(height, multiple), _whole(width, multiple)) for height, width in sizes]
    images = _images(sizes, stock, seed)
    evaluation = _errors(exact.eval(), stock.eval(), images, multiple)
    found = _errors(exact.train(), stock.train(), images, multiple) if training else None
    return Verification(name, tuple(sizes), dtype, tolerance, evaluation, found)


def _stock(model: nn.Module | str, pretrained: bool, seed: int) -> tuple[str, nn.Module]:
    if isinstance(model, ExactModel):
        raise ConfigError("verify_exact takes a stock model and makes it exact itself; give it undo_exact(model).")
    if isinstance(model, nn.Module):
        return stock_class(model).__name__, model
    timm = import_timm()
    if not timm.is_model(model):
        close = difflib.get_close_matches(model, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "give a name of timm's, or package.module:function."
        raise ConfigError(f"There is no model {model!r}; {hint}")
    if pretrained:
        return model, timm.create_model(model, pretrained=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model, lone.shaken(timm.create_model(model, num_classes=_NUM_CLASSES), seed + 1)


def _drawn_sizes(num_images: int, sides: tuple[int, int], seed: int) -> list[tuple[int, int]]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(sides[0], sides[1] + 1, (num_images, 2), generator=generator)
    return [(int(height), int(width)) for height, width in drawn]


def _whole(side: int, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple


def _images(sizes: Sequence[tuple[int, int]], model: nn.Module, seed: int) -> list[Tensor]:
    parameter = next(model.parameters(), torch.zeros((), dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(num_channels(model), *size, generator=generator, dtype=torch.float64).to(parameter)
        for size in sizes
    ]


def _padded(images: Sequence[Tensor], value: float, multiple: int) -> tuple[Tensor, Tensor]:
    """Images at the top left of a canvas a little larger than any, (N, C, H, W), and their sizes (N, 2)."""
    sizes = torch.tensor([image.shape[1:] for image in images])
    height, width = (
        (int(side) + 3) // multiple * multiple + (multiple if multiple > 1 else 0) for side in sizes.amax(0)
    )
    canvas = images[0].new_full((len(images), images[0].shape[0], height, width), value)
    for place, image in zip(canvas, images):
        place[:, : image.shape[1], : image.shape[2]] = image
    return canvas, sizes


def _errors(exact: nn.Module, stock: nn.Module, images: list[Tensor], multiple: int) -> Errors:
    assert isinstance(exact, ExactModel)
    returned = known_method(exact).outputs[exact.training]
    try:
        expected = _alone(stock, images)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ExactError(
            f"The stock {type(stock).__name__} fails on a lone image of these sizes ({error}); choose other sizes."
        ) from error
    _check_repeats(stock, images, expected)
    references = _gradients(stock, expected)
    again = _alone(stock, [_rounded(image) for image in images])
    rounded = _gradients(stock, again)

    def against(model: nn.Module, outputs: list[Tensor]) -> tuple[float, float]:
        return _worst(outputs, expected), gradients_off(_gradients(model, outputs))

    def gradients_off(gradients: dict[str, Tensor]) -> float:
        return lone.worst(lone.gradient_errors(gradients, references, rounded).values())

    pixels, sizes = _padded(images, float("nan"), multiple)
    found = against(exact, _by_image(_run(exact, pixels, sizes), returned, sizes))
    naive = against(stock, _by_image(_run(stock, pixels.nan_to_num(0.0)), returned, sizes))
    return Errors(*found, *naive, _worst(again, expected), gradients_off(rounded))


def _alone(stock: nn.Module, images: list[Tensor]) -> list[Tensor]:
    """Each tensor that lone images give, image by image."""
    return [leaf[0] for output in lone.outputs(stock, images) for leaf in tree_leaves(output)]


def _check_repeats(stock: nn.Module, images: list[Tensor], expected: list[Tensor]) -> None:
    with torch.no_grad():
        differs = _worst(_alone(stock, images), expected)
    if differs > _REPEAT_SPACINGS * torch.finfo(images[0].dtype).eps:
        mode = "training" if stock.training else "evaluation"
        raise ExactError(
            f"A network can be compared only if it gives the same pixels the same output each time, but in {mode} two "
            f"runs of the stock {stock_class(stock).__name__} differ by {differs:.1e}: it draws random numbers, or "
            "keeps state outside its modules; pass one that does not"
            + (", or verify evaluation alone." if stock.training else ".")
        )


def _run(model: nn.Module, *inputs: Tensor) -> Any:
    with lone.Undisturbed():
        return lone.replica(model)(*inputs)


def _rounded(image: Tensor) -> Tensor:
    """The image with each pixel off by up to the spacing of its numbers."""
    generator = torch.Generator().manual_seed(image.shape[1])
    noise = torch.rand(image.shape, generator=generator, dtype=torch.float64) * 2 - 1
    return image * (1 + torch.finfo(image.dtype).eps * noise).to(image)


def _by_image(output: Any, returned: Sequence[FeatureMap | None], sizes: Tensor) -> list[Tensor]:
    """Each image's part of each tensor, as its lone image gives it."""
    parts = []
    for image in range(len(sizes)):
        for leaf, found in zip(tree_leaves(output), returned):
            part = leaf[image]
            if found is not None:
                for axis, side in zip(found.axes, found.extent.of(sizes)[image].tolist()):
                    part = part.narrow(axis - 1, 0, side)
            parts.append(part)
    return parts


def _gradients(model: nn.Module, outputs: list[Tensor]) -> dict[str, Tensor]:
    """Gradients of a weighted sum of all outputs, by parameter; the model keeps none."""
    total = torch.zeros((), dtype=outputs[0].dtype, device=outputs[0].device)
    for weight, output in enumerate(outputs, start=1):
        total = total + weight * (output * torch.linspace(-1, 1, output.numel()).to(output).view_as(output)).sum()
    if total.requires_grad:  # there are networks without parameters
        with lone.Undisturbed():  # checkpointed blocks run again
            total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return gradients


def _worst(actual: list[Tensor], expected: list[Tensor]) -> float:
    if any(one.shape != other.shape for one, other in zip(actual, expected)):
        return float("inf")
    return lone.error(torch.cat([one.flatten() for one in actual]), torch.cat([one.flatten() for one in expected]))
