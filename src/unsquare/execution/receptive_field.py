"""How far each step of a network looks, found by letting it look at numbers that are none.

What a NaN touches becomes NaN, in every convolution, pool and norm. So a map whose rows from some row on are NaN shows
after a step which rows it spoilt, and thereby how far the step looks; run from both sides, along both axes, at every
phase of the stride, of the map's length and of its spoilt part. That asks nothing of the step's code. Where all is
spoilt however large the map is, the step looks at whole images (batch norm in training, squeeze-and-excite) and cannot
be run tile by tile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from unsquare.errors import ExactError
from unsquare.exact.convert import undo_exact
from unsquare.exact.layers import norm as norm_layers
from unsquare.exact.layers import window as layers
from unsquare.exact.registry import exact_class, stock_class
from unsquare.exact.tracing.trace import on_meta
from unsquare.execution.random_state import undrawn
from unsquare.torch_private import DropoutBase

_LENGTHS = (48, 256)
"""Lengths of the maps looked at, one after another while all is spoilt; whole stages look far."""
_LONGEST_STRIDE = 48
_FAR = (71, 97)
"""Lengths beyond the shortest at which a stride must hold, too."""
_ACROSS = 40
"""Length along the other axis: whatever windows need."""
_LOCAL_LAYERS = (
    *(layers.ExactConv2d, layers.ExactMaxPool2d, layers.ExactAvgPool2d, layers.ExactSpaceToDepth),
    norm_layers.ExactBatchNorm2d,
)


class NotLocalError(ExactError):
    """A step looks at whole images, or draws random numbers for each pixel."""


@dataclass(frozen=True)
class ReceptiveField:
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


ReceptiveFields = tuple[ReceptiveField, ReceptiveField]
"""Along height and width."""


def find_receptive_field(step: nn.Module, channels: int, path: str) -> ReceptiveFields:
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
    _, device = _type_and_place(stock)
    try:
        # Stochastic depth draws random numbers, of which the run's own are none.
        with undrawn(device):
            height, width = (_first(_along(stock, channels, axis, length) for length in _LENGTHS) for axis in (0, 1))
    except RuntimeError as error:
        raise NotLocalError(f"{path} ({type(stock).__name__}) takes only some sizes ({error})") from error
    if height is None or width is None:
        raise NotLocalError(f"{path} ({type(stock).__name__}) looks at whole images")
    return height, width


def _first(found: Iterable[ReceptiveField | None]) -> ReceptiveField | None:
    return next((field for field in found if field is not None), None)


def _require_local(module: nn.Module, where: str) -> None:
    """Refuse what is known to look at whole images, by name; what is not known shows itself."""
    exact, name = exact_class(module), f"{where} ({stock_class(module).__name__})"
    if exact is not None and not issubclass(exact, _LOCAL_LAYERS):
        raise NotLocalError(f"{name} looks at whole images")
    if exact is norm_layers.ExactBatchNorm2d and (module.training or module.running_mean is None):
        raise NotLocalError(f"{name} takes its statistics over all pixels; with --norm frozen it keeps those it has")
    if isinstance(module, DropoutBase) and module.training and module.p > 0:
        raise NotLocalError(f"{name} draws random numbers for each pixel")


def _along(stock: nn.Module, channels: int, axis: int, length: int) -> ReceptiveField | None:
    """The reach along an axis; None where all is spoilt, or lengths follow no stride."""
    found = _stride_and_offset(stock, channels, axis, length)
    if found is None:
        return None
    stride, offset = found
    before, after = [], []
    edges = range(length // 2, length // 2 + stride)
    for size in range(length, length + stride):
        low = _spoilt(stock, channels, axis, size, [slice(edge, None) for edge in edges])
        high = _spoilt(stock, channels, axis, size, [slice(0, edge) for edge in edges])
        if low.all(dim=1).any() or high.all(dim=1).any():
            return None
        for edge, from_edge, to_edge in zip(edges, low, high):
            after.append(edge - int(from_edge.nonzero()[0]) * stride)
            before.append(int(to_edge.nonzero()[-1]) * stride - (edge - 1))
    return ReceptiveField(stride=stride, offset=offset, before=max(before), after=max(after))


def _stride_and_offset(stock: nn.Module, channels: int, axis: int, shortest: int) -> tuple[int, int] | None:
    """The s and o for which each length n becomes floor((n + o) / s); None where there are none."""
    shadow = on_meta(stock)
    dtype, _ = _type_and_place(stock)

    @cache
    def returned(length: int) -> int:
        shape = (length, _ACROSS) if axis == 0 else (_ACROSS, length)
        x = torch.empty((1, channels, *shape), dtype=dtype, device="meta")
        return int(shadow(x).shape[2 + axis])

    for stride in range(1, _LONGEST_STRIDE + 1):
        lengths = [*range(shortest, shortest + 2 * stride + 1), *(shortest + far for far in _FAR)]
        offset = max(returned(length) * stride - length for length in lengths)
        if all((length + offset) // stride == returned(length) for length in lengths):
            return stride, offset
    return None


def _type_and_place(stock: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Of a module's numbers."""
    for part in (*stock.parameters(), *stock.buffers()):
        if part.is_floating_point():
            return part.dtype, part.device
    return torch.float32, torch.device("cpu")


def _spoilt(stock: nn.Module, channels: int, axis: int, length: int, spoilt: list[slice]) -> Tensor:
    """Which rows (or columns) of maps returned are spoilt, (maps, rows), where these of maps so long are NaN."""
    shape = (length, _ACROSS) if axis == 0 else (_ACROSS, length)
    dtype, device = _type_and_place(stock)
    x = torch.ones((len(spoilt), channels, *shape), dtype=dtype, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    for image, rows in zip(x, spoilt):
        image.movedim(1 + axis, 0)[rows] = float("nan")
    with torch.no_grad():
        y = stock(x)
    return y.isnan().movedim(2 + axis, 1).flatten(2).any(dim=2).cpu()
