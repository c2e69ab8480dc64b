"""How far each step of a network looks, found by letting it look at numbers that are none.

What a NaN touches becomes NaN, in every convolution, pool and norm. So a map whose rows from some row on are NaN shows
after a step which rows it spoilt, and thereby how far the step looks; run from both sides, along both axes, at every
phase of the stride. That asks nothing of the step's code. Where all is spoilt however large the map is, the step looks
at whole images (batch norm in training, squeeze-and-excite) and cannot be run tile by tile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unsquare.errors import ExactError
from unsquare.exact import layers, norm_layers
from unsquare.exact.convert import undo_exact
from unsquare.exact.registry import exact_class, stock_class

_LENGTHS = (48, 256)
"""Lengths of the maps looked at, one after another while all is spoilt; whole stages look far."""
_STEP = 48
"""Pixels by which a length grows to tell the stride: strides of 1, 2, 3, 4, 6, 8, 12 and 16 divide it."""
_ACROSS = 40
"""Length along the other axis: whatever windows need."""
_LOCAL_LAYERS = (
    *(layers.ExactConv2d, layers.ExactMaxPool2d, layers.ExactAvgPool2d, layers.ExactSpaceToDepth),
    norm_layers.ExactBatchNorm2d,
)


class NotLocalError(ExactError):
    """A step looks at whole images, or draws random numbers for each pixel."""


@dataclass(frozen=True)
class Reach:
    """How a step looks along one axis: output row i needs input rows i * stride - before to i * stride + after."""

    stride: int
    offset: int
    """A length n becomes floor((n + offset) / stride)."""
    before: int
    after: int

    def length(self, given: int) -> int:
        """The length that a length becomes."""
        return (given + self.offset) // self.stride

    def needed(self, start: int, end: int) -> tuple[int, int]:
        """The input rows, as a half-open range, that output rows from `start` to before `end` need."""
        return start * self.stride - self.before, (end - 1) * self.stride + self.after + 1


Reaches = tuple[Reach, Reach]
"""Along height and width."""


def find_reach(step: nn.Module, channels: int, path: str) -> Reaches:
    """How far a step looks, as it is set now (training or not).

    Args:
        step: a stock or exact module from maps (N, C, H, W) to such maps.
        channels: C.
        path: its name, for messages.

    Raises:
        NotLocalError: the step looks at whole images, or draws random numbers for each pixel.
    """
    for name, module in step.named_modules():
        where = ".".join(part for part in (path, name) if part)
        _require_local(module, where)
    stock = undo_exact(step)
    try:
        height, width = (_first(_along(stock, channels, axis, length) for length in _LENGTHS) for axis in (0, 1))
    except RuntimeError as error:
        raise NotLocalError(f"{path} ({type(stock).__name__}) takes only some sizes ({error})") from error
    if height is None or width is None:
        raise NotLocalError(f"{path} ({type(stock).__name__}) looks at whole images")
    return height, width


def _first(found: Iterable[Reach | None]) -> Reach | None:
    return next((reach for reach in found if reach is not None), None)


def _require_local(module: nn.Module, where: str) -> None:
    """Refuse what is known to look at whole images, by name; what is not known shows itself."""
    exact, name = exact_class(module), f"{where} ({stock_class(module).__name__})"
    if exact is not None and not issubclass(exact, _LOCAL_LAYERS):
        raise NotLocalError(f"{name} looks at whole images")
    if exact is norm_layers.ExactBatchNorm2d and (module.training or module.running_mean is None):
        raise NotLocalError(f"{name} takes its statistics over all pixels; with --norm frozen it keeps those it has")
    if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
        raise NotLocalError(f"{name} draws random numbers for each pixel")


def _along(stock: nn.Module, channels: int, axis: int, length: int) -> Reach | None:
    """The reach along an axis; None where all is spoilt."""
    grown = len(_spoilt(stock, channels, axis, length + _STEP)) - len(_spoilt(stock, channels, axis, length))
    if grown < 1 or _STEP % grown:
        return None
    stride = _STEP // grown
    offsets, before, after = [], [], []
    for phase in range(stride):
        size, edge = length + phase, length // 2 // stride * stride + phase
        low = _spoilt(stock, channels, axis, size, slice(edge, None))
        high = _spoilt(stock, channels, axis, size, slice(0, edge))
        if low.all() or high.all():
            return None
        offsets.append(len(low) * stride - size)
        after.append(edge - int(low.nonzero()[0]) * stride)
        before.append(int(high.nonzero()[-1]) * stride - (edge - 1))
    return Reach(stride=stride, offset=max(offsets), before=max(before), after=max(after))


def _spoilt(stock: nn.Module, channels: int, axis: int, length: int, rows: slice = slice(0, 0)) -> Tensor:
    """Which rows (or columns) of the returned map are spoilt, (rows,), where those of a map so long are NaN."""
    shape = (length, _ACROSS) if axis == 0 else (_ACROSS, length)
    weights = next(stock.parameters(), torch.empty(0))
    x = torch.rand(1, channels, *shape, dtype=weights.dtype, device=weights.device)
    x = x.contiguous(memory_format=torch.channels_last)
    x.movedim(2 + axis, 0)[rows] = float("nan")
    with torch.no_grad():
        y = stock(x)
    return y.isnan().movedim(2 + axis, 0).flatten(1).any(dim=1).cpu()
