"""A part of a network run tile by tile, with gradients equal to those of the whole to rounding.

A tile of the returned map needs the input pixels within its steps' reach, and no others (`receptive_field`). Such a
piece goes through the stock code as if it were an image of its own: where it ends inside the image, what it computes
beside the edge is wrong, but lies outside the tile; where it ends at the image's edge, the network's own padding is
right. Pieces begin at multiples of the part's stride, and are longer or shorter than the image by such multiples, so
that whatever depends on a length's remainder (a floor, 'same' padding) comes out as for the image.

Forward keeps nothing but the given map; backward runs each piece again. Peak memory is the two maps, their gradients
and one piece. The price is one more forward pass, and the overlap of pieces. Random numbers (stochastic depth draws one
for each image) begin anew for each piece, so that all pieces see the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unsquare.exact.random_state import RandomState
from unsquare.exact.regions import Batch, Passes
from unsquare.execution.receptive_field import ReceptiveField, ReceptiveFields

MapFunction = Callable[[Tensor], Tensor]


class Tile(NamedTuple):
    """A tile of the returned map along one axis, and the piece of the given map that it needs."""

    start: int
    end: int
    piece_start: int
    piece_end: int
    inside: int
    """Where the tile begins in what the piece becomes."""


@dataclass(frozen=True)
class Part:
    """Consecutive steps that look no further than their reach."""

    receptive_fields: tuple[ReceptiveFields, ...]
    """Of each step."""

    def axis(self, axis: int) -> tuple[ReceptiveField, ...]:
        """The steps' reaches along the height (0) or the width (1)."""
        return tuple(receptive_fields[axis] for receptive_fields in self.receptive_fields)

    def length(self, given: int, axis: int) -> int:
        """The length that a length of the given map becomes."""
        for field in self.axis(axis):
            given = field.length(given)
        return given

    def sizes(self, given: Tensor) -> Tensor:
        """The regions (N, 2) that regions (N, 2) of the given map become."""
        lengths = [[self.length(length, axis) for axis, length in enumerate(size)] for size in given.tolist()]
        return torch.tensor(lengths, dtype=given.dtype)

    def stride(self, axis: int) -> int:
        """Pixels of the given map between two of the returned one."""
        stride = 1
        for field in self.axis(axis):
            stride *= field.stride
        return stride

    def halo(self, axis: int) -> int:
        """Pixels of the given map that a piece has beside those under its tile, at the most."""
        start, end = self.needed(0, 1, axis)
        return end - start - self.stride(axis)

    def needed(self, start: int, end: int, axis: int) -> tuple[int, int]:
        """The rows of the given map, as a half-open range, that rows from `start` to before `end` need."""
        for field in reversed(self.axis(axis)):
            start, end = field.needed(start, end)
        return start, end

    def tiles(self, given: int, most: int, axis: int) -> list[Tile]:
        """Near-equal tiles whose pieces are about `most` long at the most, along an axis of length `given`.

        Args:
            given: the length of the given map.
            most: the length of a piece; where the reach alone is longer, tiles are one pixel.
            axis: 0 for the height, 1 for the width.
        """
        length, stride = self.length(given, axis), self.stride(axis)
        if most >= given:
            return [Tile(0, length, 0, given, 0)]
        room = max(1, (most - self.halo(axis)) // stride)
        number = -(-length // room)
        tiles = []
        for index in range(number):
            start, end = index * length // number, (index + 1) * length // number
            low, high = self.needed(start, end, axis)
            low = max(low, 0) // stride * stride
            high = given - max(given - high, 0) // stride * stride
            tiles.append(Tile(start, end, low, high, start - low // stride))
        return tiles


class TiledPart:
    """Runs a part of a network tile by tile.

    Args:
        part: how its steps look.
        modules: the steps.
        passes: the passes of the exact model that they belong to.
        enter: what is done with a piece first, such as normalizing pixels; treats each pixel by itself.
        piece_side: the longest side of a piece, in pixels of the given map.
    """

    def __init__(
        self, part: Part, modules: Sequence[nn.Module], passes: Passes, enter: MapFunction | None, tile_side: int
    ) -> None:
        self._part = part
        self._modules = modules
        self._passes = passes
        self._enter = enter
        self._tile_side = tile_side

    def __call__(self, x: Tensor, sizes: Tensor) -> Tensor:
        """The returned map (N, C', H', W'), zero outside the regions.

        Args:
            x: the given map (N, C, H, W).
            sizes: the regions in it, (N, 2) on the host.
        """
        parameters = [p for module in self._modules for p in module.parameters() if p.requires_grad]
        return _TiledFunction.apply(self, x, sizes, *parameters)

    def pieces(self, size: Sequence[int]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...], tuple[slice, ...]]]:
        """Where each piece lies in the given map of one image, and its tile in what it becomes and on the whole."""
        rows, columns = (self._part.tiles(int(length), self._tile_side, axis) for axis, length in enumerate(size))
        for row in rows:
            for column in columns:
                given = tuple(slice(tile.piece_start, tile.piece_end) for tile in (row, column))
                inside = tuple(slice(tile.inside, tile.inside + tile.end - tile.start) for tile in (row, column))
                whole = tuple(slice(tile.start, tile.end) for tile in (row, column))
                yield given, inside, whole

    def run(self, piece: Tensor) -> Tensor:
        """What the steps make of a piece (1, C, h, w), as if it were an image."""
        before = self._passes.begin(Batch(None, (piece.shape[2], piece.shape[3]), piece.device))
        try:
            if self._enter is not None:
                piece = self._enter(piece)
            piece = piece.contiguous(memory_format=torch.channels_last)
            for module in self._modules:
                piece = module(piece)
            return piece
        finally:
            self._passes.begin(before)

    def shape(self, x: Tensor) -> tuple[int, int]:
        """The (height, width) that a given map (N, C, H, W) becomes."""
        return self._part.length(x.shape[2], 0), self._part.length(x.shape[3], 1)


class _TiledFunction(torch.autograd.Function):
    """A part's map, piece by piece."""

    @staticmethod
    def forward(ctx: Any, stream: TiledPart, x: Tensor, sizes: Tensor, *parameters: Tensor) -> Tensor:
        """Run each piece of each image, and keep none of what it computes."""
        ctx.stream, ctx.sizes, ctx.parameters = stream, sizes, parameters
        ctx.autocast = _Autocast.now(x.device)
        ctx.states = []
        ctx.save_for_backward(x)
        y: Tensor | None = None
        for image, size in enumerate(sizes.tolist()):
            ctx.states.append(RandomState.now(x.device))
            for given, inside, whole in stream.pieces(size):
                ctx.states[-1].restore()
                tile = stream.run(x[image : image + 1, :, given[0], given[1]])[:, :, inside[0], inside[1]]
                if y is None:
                    shape = (len(x), tile.shape[1], *stream.shape(x))
                    y = torch.empty(shape, dtype=tile.dtype, device=tile.device, memory_format=torch.channels_last)
                    y.zero_()
                y[image : image + 1, :, whole[0], whole[1]] = tile
        assert y is not None, "a micro-batch has images"
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Run each piece again, with a graph of its own, and add up what overlaps."""
        (x,) = ctx.saved_tensors
        stream, parameters = ctx.stream, ctx.parameters
        wants_x = ctx.needs_input_grad[1]
        grad_x = torch.zeros_like(x, memory_format=torch.channels_last) if wants_x else None
        totals: list[Tensor | None] = [None] * len(parameters)
        leave = RandomState.now(x.device)
        for image, size in enumerate(ctx.sizes.tolist()):
            for given, inside, whole in stream.pieces(size):
                ctx.states[image].restore()
                piece = x[image : image + 1, :, given[0], given[1]].detach().requires_grad_(wants_x)
                with torch.enable_grad(), ctx.autocast.again():
                    tile = stream.run(piece)[:, :, inside[0], inside[1]]
                own = grad[image : image + 1, :, whole[0], whole[1]]
                wanted = [*([piece] if wants_x else []), *parameters]
                found = list(torch.autograd.grad(tile, wanted, own, allow_unused=True))
                if grad_x is not None and (part := found.pop(0)) is not None:
                    grad_x[image : image + 1, :, given[0], given[1]] += part
                for place, part in enumerate(found):
                    if part is not None:
                        before = totals[place]
                        totals[place] = part if before is None else before + part  # two may share one tensor
        leave.restore()
        return None, grad_x, None, *totals


class _Autocast(NamedTuple):
    """The precision in force when forward ran, for backward to run in it again."""

    kind: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def now(cls, device: torch.device) -> _Autocast:
        return cls(device.type, torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type))

    def again(self) -> torch.autocast:
        return torch.autocast(self.kind, dtype=self.dtype, enabled=self.enabled)
