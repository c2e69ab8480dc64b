"""Measures the receptive field of each step of a network, by following NaNs through it.

In every convolution, pool and norm, an output that depends on a NaN is NaN. So the step is run on a map whose rows are
NaN from some row on, and the rows of its output that are NaN tell its receptive field. This is repeated from both
sides, along both axes, and at every phase of the stride, of the map's length and of its first NaN row; it needs no
knowledge of the step's code. Where the whole output is NaN however large the map is, the receptive field is the whole
image (batch norm in training, squeeze-and-excite), and the step cannot be tiled.
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
"""Lengths of the maps tried, one after another while the whole output is NaN; whole stages have large fields."""
_LONGEST_STRIDE = 48
_FAR = (71, 97)
"""Lengths beyond the shortest at which a stride must hold as well."""
_ACROSS = 40
"""Length along the other axis, long enough for any window."""
_LOCAL_LAYERS = (
    *(layers.ExactConv2d, layers.ExactMaxPool2d, layers.ExactAvgPool2d, layers.ExactSpaceToDepth),
    norm_layers.ExactBatchNorm2d,
)


class NotLocalError(ExactError):
    """A step cannot be tiled: its receptive field is the whole image, or it draws random numbers for each pixel."""


@dataclass(frozen=True)
class ReceptiveField:
    """A receptive field along one axis: output row i needs input rows i * stride - before to i * stride + after."""

    stride: int
    offset: int
    """A length n becomes floor((n + offset) / stride)."""
    before: int
    after: int

    def length(self, given: int) -> int:
        """Length of the output for an input of a length."""
        return (given + self.offset) // self.stride

    def needed(self, start: int, end: int) -> tuple[int, int]:
        """The input rows, as a half-open range, that output rows from `start` to before `end` need."""
        return start * self.stride - self.before, (end - 1) * self.stride + self.after + 1


ReceptiveFields = tuple[ReceptiveField, ReceptiveField]
"""Along height and width."""


def find_receptive_field(step: nn.Module, channels: int, path: str) -> ReceptiveFields:
    """The receptive field of a step in its current mode, training or not.

    Args:
        step: a stock or exact module from maps (N, C, H, W) to such maps.
        channels: C.
        path: its name, for messages.

    Raises:
        NotLocalError: the field is the whole image, or the step draws random numbers for each pixel.
    """
    for name, module in step.named_modules():
        where = ".".join(part for part in (path, name) if part)
        _require_local(module, where)
    stock = undo_exact(step)
    _, device = _type_and_place(stock)
    try:
        # Stochastic depth draws random numbers; the run's own must not move.
        with undrawn(device):
            height, width = (_first(_along(stock, channels, axis, length) for length in _LENGTHS) for axis in (0, 1))
    except RuntimeError as error:
        raise NotLocalError(f"{path} ({type(stock).__name__}) only accepts some sizes ({error})") from error
    if height is None or width is None:
        raise NotLocalError(f"{path} ({type(stock).__name__}) depends on the whole image")
    return height, width


def _first(found: Iterable[ReceptiveField | None]) -> ReceptiveField | None:
    return next((field for field in found if field is not None), None)


def _require_local(module: nn.Module, where: str) -> None:
    """Refuse layers that are known to depend on the whole image; others are measured."""
    exact, name = exact_class(module), f"{where} ({stock_class(module).__name__})"
    if exact is not None and not issubclass(exact, _LOCAL_LAYERS):
        raise NotLocalError(f"{name} depends on the whole image")
    if exact is norm_layers.ExactBatchNorm2d and (module.training or module.running_mean is None):
        raise NotLocalError(f"{name} computes statistics over all pixels; --norm frozen uses its running statistics")
    if isinstance(module, DropoutBase) and module.training and module.p > 0:
        raise NotLocalError(f"{name} draws random numbers for each pixel")


def _along(stock: nn.Module, channels: int, axis: int, length: int) -> ReceptiveField | None:
    """The receptive field along an axis; None where all outputs are NaN, or lengths do not follow a stride."""
    found = _stride_and_offset(stock, channels, axis, length)
    if found is None:
        return None
    stride, offset = found
    before, after = [], []
    edges = range(length // 2, length // 2 + stride)
    for size in range(length, length + stride):
        low = _nan_rows(stock, channels, axis, size, [slice(edge, None) for edge in edges])
        high = _nan_rows(stock, channels, axis, size, [slice(0, edge) for edge in edges])
        if low.all(dim=1).any() or high.all(dim=1).any():
            return None
        for edge, from_edge, to_edge in zip(edges, low, high):
            after.append(edge - int(from_edge.nonzero()[0]) * stride)
            before.append(int(to_edge.nonzero()[-1]) * stride - (edge - 1))
    return ReceptiveField(stride=stride, offset=offset, before=max(before), after=max(after))


def _stride_and_offset(stock: nn.Module, channels: int, axis: int, shortest: int) -> tuple[int, int] | None:
    """The stride s and offset o by which each length n becomes floor((n + o) / s); None where there are none."""
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
    """The type and device of a module's parameters."""
    for part in (*stock.parameters(), *stock.buffers()):
        if part.is_floating_point():
            return part.dtype, part.device
    return torch.float32, torch.device("cpu")


def _nan_rows(stock: nn.Module, channels: int, axis: int, length: int, nan_rows: list[slice]) -> Tensor:
    """Which rows (or columns) of the outputs hold a NaN, (maps, rows), for inputs of a length with these rows NaN."""
    shape = (length, _ACROSS) if axis == 0 else (_ACROSS, length)
    dtype, device = _type_and_place(stock)
    x = torch.ones((len(nan_rows), channels, *shape), dtype=dtype, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    for image, rows in zip(x, nan_rows):
        image.movedim(1 + axis, 0)[rows] = float("nan")
    with torch.no_grad():
        y = stock(x)
    return y.isnan().movedim(2 + axis, 1).flatten(2).any(dim=2).cpu()
