"""Where the real pixels lie in every feature map of a padded batch.

Regions are computed on the host, where the loader knows them; a device is sent no more than two numbers per
image, and the list of outside pixels is built there. Pixels are addressed as rows of a channels-last map seen as
(N * H * W, C): filling the outside is then one call that touches only the strips, not a mask over the whole map.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from unsquare.errors import ExactError
from unsquare.exact.extent import Extent
from unsquare.torch_private import in_backward, when_backward_ends

_Value = TypeVar("_Value")

Extents = tuple[Extent, ...]
"""The extents of the maps given to one layer, which may be used at several depths."""


class Regions:
    """The regions of one feature map, (N, 2) on the host, and where they lie on its device."""

    masked = False

    def __init__(self, sizes: Tensor, canvas: tuple[int, int], device: torch.device) -> None:
        self.sizes = sizes
        self.canvas = canvas
        self.device = device
        # On plain numbers: a sum of a tensor would be taken for a call of the model's own code, in which this may run.
        self.num_pixels = sum(high * wide for high, wide in sizes.tolist())
        self.num_computed = len(sizes) * canvas[0] * canvas[1]
        self.full = self.num_pixels == self.num_computed

    @cached_property
    def on_device(self) -> Tensor:
        """The regions (N, 2) on the map's device."""
        return _send(self.sizes, self.device)

    @cached_property
    def counts(self) -> Tensor:
        """The number of real pixels of each image, (N,) float32 on the map's device."""
        return self.on_device.prod(dim=1).float()

    @cached_property
    def outside(self) -> Tensor:
        """Row numbers of all pixels outside the regions, in the map seen as (N * H * W, C).

        Each image has two strips: whole rows below its region, and what is right of it.
        """
        height, width = self.canvas
        high, wide = self.on_device.unbind(dim=1)
        first = torch.arange(len(high), device=self.device) * (height * width)
        starts = torch.cat([first + high * width, first + wide])
        widths = torch.cat([torch.full_like(wide, width), width - wide])
        lengths = torch.cat([(height - high) * width, high * (width - wide)])
        strip = torch.repeat_interleave(lengths, output_size=self.num_computed - self.num_pixels)
        within = torch.arange(len(strip), device=self.device) - (lengths.cumsum(0) - lengths)[strip]
        across = widths[strip]
        return starts[strip] + within // across * width + within % across

    @cached_property
    def inside(self) -> Tensor:
        """True on real pixels, (N, 1, H, W): for maps that are not channels-last in memory."""
        rows = torch.arange(self.canvas[0], device=self.device)[None, None, :, None]
        columns = torch.arange(self.canvas[1], device=self.device)[None, None, None, :]
        high, wide = self.on_device[:, :, None, None, None].unbind(dim=1)
        return (rows < high) & (columns < wide)


class MaskedRegions(Regions):
    """Regions of which the host knows nothing: (N, 2) on the map's device, for `ops.masks`."""

    masked = True

    def __init__(self, sizes: Tensor, canvas: tuple[int, int], device: torch.device) -> None:
        self.sizes = self.on_device = sizes
        self.canvas = canvas
        self.device = device
        self.full = False
        self.counts = sizes.prod(dim=1).float()
        rows = torch.arange(canvas[0], device=device)[None, :] < sizes[:, :1]
        columns = torch.arange(canvas[1], device=device)[None, :] < sizes[:, 1:]
        self.inside = rows[:, None, :, None] & columns[:, None, None, :]


class BatchRegions:
    """The images of one forward pass: their sizes and canvas, and every region worked out so far."""

    def __init__(
        self, sizes: Tensor | None, canvas: tuple[int, int], device: torch.device, *, by_masks: bool = False
    ) -> None:
        # (N, 2) int64 on the host, with `by_masks` on the device; None where the whole canvas is real
        self.sizes = sizes
        self.by_masks = by_masks
        self.canvas = canvas
        self.device = device
        self._known: dict[Hashable, Any] = {}

    def recall(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """The value made for this key in this forward pass, made now if it is new.

        A compiler finds equal values itself, and allows no notes within a checkpointed block.
        """
        if torch.compiler.is_compiling():
            return make()
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def regions(self, extents: Extents, shape: tuple[int, int]) -> Regions | None:
        """The regions of a map of this (height, width), which has one of these extents; None where the canvas is real.

        Raises:
            ExactError: no extent makes such a map, or several do whose regions differ.
        """
        if self.sizes is None:
            return None
        fitting = [extent for extent in extents if extent.of_canvas(self.canvas) == shape]
        if not fitting:
            made = " or ".join("{} x {}".format(*extent.of_canvas(self.canvas)) for extent in extents)
            raise ExactError(
                f"A layer expects a map of {made} on the canvas of this batch, but got {shape[0]} x {shape[1]}; call "
                "the model as a whole, and raise min_side if the canvas is smaller than its windows."
            )
        regions = self.recall(fitting[0], lambda: self._regions(fitting[0]))
        if len(fitting) > 1 and (
            self.by_masks or any(not torch.equal(regions.sizes, extent.of(self.sizes)) for extent in fitting[1:])
        ):
            raise ExactError(
                f"A layer that is used at several depths got a map of {shape[0]} x {shape[1]}, which more than one of "
                "them makes on this canvas; use a separate layer for each depth."
            )
        return regions

    def _regions(self, extent: Extent) -> Regions:
        assert self.sizes is not None
        sizes = extent.of(self.sizes)
        if self.by_masks:
            return MaskedRegions(sizes, extent.of_canvas(self.canvas), self.device)
        too_small = (sizes < 1).any(dim=1)
        if too_small.any():
            height, width = self.sizes[too_small][0].tolist()
            raise ExactError(
                f"An image of {height} x {width} pixels is too small for the network: one of its windows does not fit; "
                "raise min_side in the geometry."
            )
        return Regions(sizes, extent.of_canvas(self.canvas), self.device)


class _PassState:
    """What a pass notes: the batch on its way forward, the one on its way back, and the calls now replaced."""

    def __init__(self) -> None:
        self.forward: BatchRegions | None = None
        self.backward: BatchRegions | None = None
        self.replacer: Any = None


class _ThreadState(threading.local, _PassState):
    """The same for each thread by itself."""


class Passes:
    """Which batch a layer works on now; one object that a model shares with all its layers.

    A checkpointed block runs again during backward, perhaps after other forward passes. The output of each
    forward pass therefore names its batch here as soon as backward enters its graph (`mark`). Each thread has passes
    of its own, so that one model may serve several.
    """

    def __init__(self) -> None:
        self.by_masks = False
        """Whether regions are kept by masks where nothing is compiled: for comparison."""
        self._threads = _ThreadState()
        self._compiled = _PassState()  # compilers do not follow what belongs to a thread

    @property
    def _now(self) -> _PassState:
        return self._compiled if torch.compiler.is_compiling() else self._threads

    @property
    def replacer(self) -> Any:
        """The functional calls of the module whose code runs now, where any of them is replaced; see `calls`."""
        return self._now.replacer

    @replacer.setter
    def replacer(self, replacer: Any) -> None:
        self._now.replacer = replacer

    @property
    def batch(self) -> BatchRegions | None:
        """The batch of the pass in progress; None outside any, where the whole canvas counts as real.

        Raises:
            ExactError: a block is recomputed for a loss that is not of the model's output.
        """
        state = self._now
        if state.forward is not None:
            return state.forward
        if not self.recomputing:
            return None
        if state.backward is None:
            raise ExactError(
                "A checkpointed block can be recomputed only for a loss of what the model returned, but this backward "
                "pass starts elsewhere; take the loss from the model's output, or switch checkpointing off."
            )
        return state.backward

    @property
    def recomputing(self) -> bool:
        """Whether this is the second run of a checkpointed block, inside backward."""
        return self._now.forward is None and in_backward()

    @property
    def in_progress(self) -> bool:
        """Whether a forward pass is under way."""
        return self._now.forward is not None

    def begin(self, batch: BatchRegions | None) -> BatchRegions | None:
        """Make this batch the one in progress; returns the one before, to be given back to `begin`."""
        state = self._now
        before, state.forward = state.forward, batch
        return before

    def mark(self, output: Tensor, batch: BatchRegions) -> None:
        """Have an output name its batch when backward enters its graph, until that backward pass ends."""
        if output.requires_grad and not torch.compiler.is_compiling():
            output.register_hook(lambda grad: self._rewind(batch))

    def _rewind(self, batch: BatchRegions) -> None:
        self._now.backward = batch
        when_backward_ends(self._forget)

    def _forget(self) -> None:
        self._now.backward = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Passes:
        copied = Passes()
        memo[id(self)] = copied
        return copied


@dataclass(frozen=True)
class Site:
    """A place in a model where feature maps are looked at sideways."""

    passes: Passes
    extents: Extents
    """Of the map given, for each depth at which the place is used."""
    after: Extents = ()
    """Of the map returned, likewise."""
    clean: bool = False
    """Whether the map given is zero outside its regions already."""

    def regions(self, x: Tensor, axes: tuple[int, int] = (2, 3)) -> Regions | None:
        """The regions of a map given, in the pass in progress; None where all of it is real."""
        regions = self._regions(self.extents, (x.shape[axes[0]], x.shape[axes[1]]))
        return None if regions is None or regions.full else regions

    @property
    def masked(self) -> bool:
        """Whether the pass in progress keeps its regions by masks."""
        batch = self.passes.batch
        return batch is not None and batch.by_masks

    def lengths(self, x: Tensor) -> Tensor | None:
        """The regions (N, 2) of a map given (N, C, H, W); None outside any pass with sizes."""
        regions = self._regions(self.extents, (x.shape[2], x.shape[3]))
        return None if regions is None else regions.sizes

    def regions_after(self, y: Tensor) -> Regions | None:
        """The regions of a map returned (N, C, H, W); None where all of it is real."""
        regions = self._regions(self.after, (y.shape[2], y.shape[3]))
        return None if regions is None or regions.full else regions

    def _regions(self, extents: Extents, shape: tuple[int, int]) -> Regions | None:
        batch = self.passes.batch
        return None if batch is None else batch.regions(extents, shape)

    def recall(self, x: Tensor, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """What is made once in a pass for this place, key and size of the map given (N, C, H, W)."""
        batch = self.passes.batch
        assert batch is not None
        return batch.recall((self.extents, tuple(x.shape[2:]), key), make)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
