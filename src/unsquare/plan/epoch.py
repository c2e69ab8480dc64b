"""The plan of one epoch: which images go through the network together, before any pixel is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unsquare.shapes import Shape, Sizes

Positions = npt.NDArray[np.int64]
"""Positions of images in the planned sizes, (n,) int64."""


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Images of one canvas that go through the network together."""

    images: Positions
    """Positions in the planned sizes, (n,), at least one."""
    canvas: Shape
    """The padded height and width: the least that holds every image."""

    @property
    def computed_pixels(self) -> int:
        """Pixels that the network computes, padding included."""
        return len(self.images) * self.canvas.pixels


@dataclass(frozen=True, eq=False)
class Step:
    """One optimizer update. Each image weighs 1 / `num_images`, wherever it runs."""

    ranks: tuple[tuple[MicroBatch, ...], ...]
    """Micro-batches of each rank, largest first; a rank has none only where images are fewer than ranks."""
    bucket: int | None = None
    """Position in the plan's buckets of the one that all images come from; None in a mixed step."""

    @property
    def micro_batches(self) -> tuple[MicroBatch, ...]:
        """The micro-batches of all ranks."""
        return tuple(micro_batch for rank in self.ranks for micro_batch in rank)

    @property
    def num_images(self) -> int:
        """Images over all ranks."""
        return sum(len(micro_batch.images) for micro_batch in self.micro_batches)


@dataclass(frozen=True, eq=False)
class Bucket:
    """Images whose micro-batches are drawn among themselves."""

    images: Positions
    """Positions in the planned sizes, (n,), ascending."""
    canvas: Shape
    """The bound: the least height and width that hold every image of the bucket."""
    superbucket: int
    """Which group of like pixel count the bucket belongs to, 0 the smallest."""


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """A whole epoch: every image in exactly one micro-batch."""

    epoch: int
    seed: int
    sizes: Sizes
    """Shapes as planned, (N, 2): after resizing, cropping and turning."""
    turns: npt.NDArray[np.uint8]
    """Quarter turns of each image, (N,), 0 to 3, as `numpy.rot90` counts; `sizes` are after them."""
    steps: tuple[Step, ...]
    buckets: tuple[Bucket, ...] = ()
    """The buckets in `b2b`; empty in `mixed`."""

    @property
    def micro_batches(self) -> Iterator[MicroBatch]:
        """The micro-batches of all steps and ranks, in order of the steps."""
        return (micro_batch for step in self.steps for micro_batch in step.micro_batches)


def canvas_of(sizes: Sizes, images: Positions) -> Shape:
    """The least height and width that hold all these images."""
    height, width = sizes[images].max(axis=0)
    return Shape(int(height), int(width))


def micro_batches_of(sizes: Sizes, groups: Iterable[Positions]) -> list[MicroBatch]:
    """A micro-batch with a tight canvas for each group of positions."""
    return [MicroBatch(images=images, canvas=canvas_of(sizes, images)) for images in groups]
