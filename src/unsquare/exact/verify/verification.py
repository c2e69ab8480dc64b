"""Measures how far a padded batch is from each image alone: for the exact model, and for naive padding beside it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Annotated, Any, Literal

import torch
from torch import nn

from unsquare.errors import ConfigError, ExactError
from unsquare.exact.convert import converted
from unsquare.exact.model import ExactModel, side_multiple
from unsquare.exact.registry import stock_class
from unsquare.exact.tracing.traced import StockTraceError
from unsquare.exact.verify.comparison import ExactnessErrors, StockRunError, compare, drawn_images, moving_state
from unsquare.exact.verify.reference import randomized, without_chance
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

_NUM_CLASSES = 7
_LARGER_SIDES = (224, 224, 248)


@dataclass(frozen=True)
class Verification:
    """What was measured of one model.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> found = unsquare.verify_exact(network, max_side=32)
        >>> found.exact, found.evaluation.outputs <= found.tolerance
        (True, True)
    """

    model: str
    sizes: tuple[tuple[int, int], ...]
    """Heights and widths of the images, in pixels."""
    dtype: str
    tolerance: float
    evaluation: ExactnessErrors | None
    training: ExactnessErrors | None
    """With batch norms over the real pixels of all images, dropout and stochastic depth switched off."""
    refused: str | None = None
    """Why the model cannot be made exact."""
    moving: tuple[str, ...] = ()
    """State that moves with every call in training, beside the statistics of norms: images that share a call then find
    another state than one after another, so that no batch in training is what its images are alone."""

    @property
    def exact(self) -> bool:
        """Whether all errors are within the tolerance, or within what rounding does to the reference."""
        return self.status == "exact"

    @property
    def status(self) -> str:
        """One word: exact, inexact, ill-conditioned, stateful, or refused.

        Ill-conditioned means that rounding explains the errors, but is so large itself that it would hide a leak;
        stateful, that all is exact but for state that moves with every call in training.
        """
        if self.refused:
            return "refused"
        found = {
            self._judged(error, own)
            for mode in (self.evaluation, self.training)
            if mode is not None
            for error, own in ((mode.outputs, mode.own_outputs), (mode.gradients, mode.own_gradients))
        }
        word = next((word for word in ("inexact", "ill-conditioned", "exact") if word in found), "inexact")
        return "stateful" if word == "exact" and self.moving else word

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
) -> Verification:
    """Compare a padded batch with each of its images alone, on random images.

    Args:
        model: a stock model, or the name of one of timm's. A model is taken with its own weights and is not changed; a
            name is built with random weights, every gain, bias and statistic away from 0 and 1, where errors hide.
            For trained weights, give `timm.create_model(name, pretrained=True)`.
        sizes: heights and widths of the images in pixels; None draws them.
        num_images: how many sizes are drawn: from 2, since one is never padded, to 1,024, since all are held at once.
        max_side: the largest side drawn, in pixels, from 16, below which few models run, to 4,096, at which few fit;
            models that refuse images so small get sides from 224 on.
        seed: of sizes, pixels and weights.
        dtype: "float64", which leaves rounding no excuse, or "float32".
        tolerance: the largest error that is exact whatever rounding does; None takes 1e-10 or 1e-5.
        training: whether to measure training as well as evaluation.

    Returns:
        The errors; `refused` says why where the model cannot be made exact.

    Raises:
        ConfigError: there is no such model, or the settings do not suit.
        ExactError: the stock model itself fails, perhaps on images of such sizes alone, or gives other outputs
            each time.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> unsquare.verify_exact(network, max_side=32).status
        'exact'
    """
    chosen = None if sizes is None else _checked_sizes(sizes)
    name, stock = _stock(model, seed)
    chosen = chosen or _drawn_sizes(num_images, (max_side * 3 // 8, max_side * 5 // 8, max_side), seed)
    tolerance = TOLERANCES[dtype] if tolerance is None else tolerance
    try:
        exact = converted(stock)  # as it is: a dropout that cannot be exact is refused, not switched off
    except ExactError as error:
        if isinstance(error, StockTraceError) and isinstance(model, nn.Module):
            raise  # a mistake of its author, who must see it
        return Verification(name, tuple(chosen), dtype, tolerance, None, None, refused=str(error))
    stock, exact = (without_chance(each).to(getattr(torch, dtype)) for each in (stock, exact))
    for parameter in (*stock.parameters(), *exact.parameters()):  # frozen ones are measured too
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        return _verified(name, stock, exact, chosen, dtype, tolerance, training, seed)
    except StockRunError:
        if sizes is not None or max_side >= _LARGER_SIDES[-1]:
            raise
        chosen = _drawn_sizes(num_images, _LARGER_SIDES, seed)
        return _verified(name, stock, exact, chosen, dtype, tolerance, training, seed)


def _checked_sizes(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    found = [(int(height), int(width)) for height, width in checked_sizes(sizes).reshape(-1, 2)]
    if len(found) < 2:
        raise ConfigError(
            f"Verifying needs two or more images, since one is never padded, but got {len(found)}; give more sizes."
        )
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
    sizes = [(_rounded_to_multiple(height, multiple), _rounded_to_multiple(width, multiple)) for height, width in sizes]
    images = drawn_images(sizes, stock, seed)
    canvas = (max(height for height, _ in sizes), max(width for _, width in sizes) + multiple)
    evaluation = compare(exact.eval(), stock.eval(), images, canvas)
    moving = moving_state(stock.train(), images[0]) if training else ()
    found = compare(exact.train(), stock.train(), images, canvas) if training else None
    return Verification(name, tuple(sizes), dtype, tolerance, evaluation, found, moving=moving)


def named_model(name: str, *, pretrained: bool = False) -> nn.Module:
    """A model of timm's by its name, with random weights or the trained ones, from the hub.

    Raises:
        ConfigError: there is no such model.
    """
    timm = import_timm()
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "give a name of timm's, or package.module:function."
        raise ConfigError(f"There is no model {name!r}; {hint}")
    return timm.create_model(name, pretrained=True) if pretrained else timm.create_model(name, num_classes=_NUM_CLASSES)


def _stock(model: nn.Module | str, seed: int) -> tuple[str, nn.Module]:
    if isinstance(model, ExactModel):
        raise ConfigError("verify_exact takes a stock model and makes it exact itself; give it undo_exact(model).")
    if isinstance(model, nn.Module):
        return stock_class(model).__name__, model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model, randomized(named_model(model), seed + 1)


def _drawn_sizes(num_images: int, sides: tuple[int, int, int], seed: int) -> list[tuple[int, int]]:
    """Portrait, landscape, a small square, then any, of sides (small, low, high)."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    least, low, high = sides
    middle = (low + high) // 2
    small = drawn(least, low)
    kinds = [
        (drawn(middle + 1, high), drawn(low, middle)),
        (drawn(low, middle), drawn(middle + 1, high)),
        (small, small),
    ]
    more = [(drawn(low, high), drawn(low, high)) for _ in range(num_images - len(kinds))]
    return [*kinds, *more][:num_images]


def _rounded_to_multiple(side: int, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple
