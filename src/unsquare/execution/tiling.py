"""Runs a part of a network tile by tile; its gradients equal those of the whole to rounding.

A tile of the output map depends only on the input pixels within its receptive field (`receptive_field`): the tile's
input. This goes through the stock code as if it were an image of its own. Where it ends inside the image, outputs next
to that edge are wrong, but lie outside the tile; where it ends at the image's edge, the network's own padding is right.
Tile inputs begin at multiples of the part's stride, and their lengths differ from the image's by such multiples, so
that what depends on a length's remainder (a floor, 'same' padding) is the same as for the image.

Forward keeps only the input map; backward runs each tile again. Peak memory is the input and output maps, their
gradients and one tile. The cost is one more forward pass, and the overlap of tile inputs. The state of random numbers
is restored for each tile, so that all tiles of an image get the same (stochastic depth draws one number for each
image).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unsquare.exact.regions import BatchRegions, Passes
from unsquare.execution.random_state import RandomState
from unsquare.execution.receptive_field import ReceptiveField, ReceptiveFields

MapFunction = Callable[[Tensor], Tensor]


class Tile(NamedTuple):
    """A tile of the output map along one axis, and its input: the range of the input map that it needs."""

    start: int
    end: int
    input_start: int
    input_end: int
    inside: int
    """Where the tile begins in the output of its input."""


@dataclass(frozen=True)
class Part:
    """Consecutive steps with bounded receptive fields."""

    receptive_fields: tuple[ReceptiveFields, ...]
    """One for each step."""

    def axis(self, axis: int) -> tuple[ReceptiveField, ...]:
        """The steps' receptive fields along the height (0) or the width (1)."""
        return tuple(receptive_fields[axis] for receptive_fields in self.receptive_fields)

    def length(self, given: int, axis: int) -> int:
        """Length of the output map for an input map of a length."""
        for field in self.axis(axis):
            given = field.length(given)
        return given

    def sizes(self, given: Tensor) -> Tensor:
        """Regions (N, 2) of the output map for regions (N, 2) of the input map."""
        lengths = [[self.length(length, axis) for axis, length in enumerate(size)] for size in given.tolist()]
        return torch.tensor(lengths, dtype=given.dtype)

    def stride(self, axis: int) -> int:
        """Pixels of the input map between two of the output map."""
        stride = 1
        for field in self.axis(axis):
            stride *= field.stride
        return stride

    def halo(self, axis: int) -> int:
        """Most pixels of the input map that a tile's input has beside those under the tile."""
        start, end = self.needed(0, 1, axis)
        return end - start - self.stride(axis)

    def needed(self, start: int, end: int, axis: int) -> tuple[int, int]:
        """The rows of the input map, as a half-open range, that output rows from `start` to before `end` need."""
        for field in reversed(self.axis(axis)):
            start, end = field.needed(start, end)
        return start, end

    def tiles(self, given: int, most: int, axis: int) -> list[Tile]:
        """Near-equal tiles along an axis of length `given`, their inputs at most about `most` long.

        Args:
            given: the length of the input map.
            most: the length of a tile's input; where the receptive field is longer, tiles are one pixel.
            axis: 0 for the height, 1 for the width.
        """
        length, stride = self.length(given, axis), self.stride(axis)
        if most >= given:
            return [Tile(0, length, 0, given, 0)]
        longest = max(1, (most - self.halo(axis)) // stride)
        number = -(-length // longest)
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
        part: the receptive fields of its steps.
        modules: the steps.
        passes: the passes of the exact model that they belong to.
        enter: what is applied to a tile's input first, to each pixel by itself, such as normalization.
        tile_side: the longest side of a tile's input, in pixels of the input map.
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
        """The output map (N, C', H', W'), zero outside the regions.

        Args:
            x: the input map (N, C, H, W).
            sizes: the regions in it, (N, 2) on the host.
        """
        parameters = [p for module in self._modules for p in module.parameters() if p.requires_grad]
        return _TiledFunction.apply(self, x, sizes, *parameters)

    def tiles(self, size: Sequence[int]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...], tuple[slice, ...]]]:
        """For each tile of an image: where its input lies, and where the tile lies in its own and the whole output."""
        rows, columns = (self._part.tiles(int(length), self._tile_side, axis) for axis, length in enumerate(size))
        for row in rows:
            for column in columns:
                given = tuple(slice(tile.input_start, tile.input_end) for tile in (row, column))
                inside = tuple(slice(tile.inside, tile.inside + tile.end - tile.start) for tile in (row, column))
                whole = tuple(slice(tile.start, tile.end) for tile in (row, column))
                yield given, inside, whole

    def run(self, x: Tensor) -> Tensor:
        """The steps' output for a tile's input (1, C, h, w), run as if it were an image."""
        before = self._passes.begin(BatchRegions(None, (x.shape[2], x.shape[3]), x.device))
        try:
            if self._enter is not None:
                x = self._enter(x)
            x = x.contiguous(memory_format=torch.channels_last)
            for module in self._modules:
                x = module(x)
            return x
        finally:
            self._passes.begin(before)

    def shape(self, x: Tensor) -> tuple[int, int]:
        """The (height, width) of the output map for an input map (N, C, H, W)."""
        return self._part.length(x.shape[2], 0), self._part.length(x.shape[3], 1)


class _TiledFunction(torch.autograd.Function):
    """The output map of a tiled part."""

    @staticmethod
    def forward(ctx: Any, tiled: TiledPart, x: Tensor, sizes: Tensor, *parameters: Tensor) -> Tensor:
        """Run each tile of each image, and keep only the input map."""
        ctx.tiled, ctx.sizes, ctx.parameters = tiled, sizes, parameters
        ctx.autocast = _Autocast.now(x.device)
        ctx.states = []
        ctx.save_for_backward(x)
        y: Tensor | None = None
        for image, size in enumerate(sizes.tolist()):
            ctx.states.append(RandomState.now(x.device))
            for given, inside, whole in tiled.tiles(size):
                ctx.states[-1].restore()
                tile = tiled.run(x[image : image + 1, :, given[0], given[1]])[:, :, inside[0], inside[1]]
                if y is None:
                    shape = (len(x), tile.shape[1], *tiled.shape(x))
                    y = torch.empty(shape, dtype=tile.dtype, device=tile.device, memory_format=torch.channels_last)
                    y.zero_()
                y[image : image + 1, :, whole[0], whole[1]] = tile
        assert y is not None, "a micro-batch has images"
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Run each tile again, with a graph of its own, and add up the gradients where inputs overlap."""
        (x,) = ctx.saved_tensors
        tiled, parameters = ctx.tiled, ctx.parameters
        wants_x = ctx.needs_input_grad[1]
        grad_x = torch.zeros_like(x, memory_format=torch.channels_last) if wants_x else None
        totals: list[Tensor | None] = [None] * len(parameters)
        leave = RandomState.now(x.device)
        for image, size in enumerate(ctx.sizes.tolist()):
            for given, inside, whole in tiled.tiles(size):
                ctx.states[image].restore()
                tile_input = x[image : image + 1, :, given[0], given[1]].detach().requires_grad_(wants_x)
                with torch.enable_grad(), ctx.autocast.again():
                    tile = tiled.run(tile_input)[:, :, inside[0], inside[1]]
                own = grad[image : image + 1, :, whole[0], whole[1]]
                wanted = [*([tile_input] if wants_x else []), *parameters]
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
    """The precision in which forward ran, for backward to use again."""

    kind: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def now(cls, device: torch.device) -> _Autocast:
        return cls(device.type, torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type))

    def again(self) -> torch.autocast:
        return torch.autocast(self.kind, dtype=self.dtype, enabled=self.enabled)
