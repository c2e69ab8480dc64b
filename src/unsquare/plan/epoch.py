"""The plan of one epoch: which images go through the network together, before any pixel is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import final, overload

import numpy as np
import numpy.typing as npt

from unsquare.shapes import Shape, Sizes

Positions = npt.NDArray[np.int64]
"""Positions of images in the planned sizes, (n,) int64 (held as uint32 where they are a hundred million)."""


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Images of one canvas that go through the network together.

    Example:
        >>> shapes = [(400, 600), (410, 590)]
        >>> plan = unsquare.plan_epoch(shapes, unsquare.PlanConfig(step_images=2), unsquare.Limits(), epoch=0)
        >>> [batch] = plan.micro_batches
        >>> batch.canvas, batch.computed_pixels
        (Shape(height=410, width=600), 492000)
    """

    images: Positions
    """Positions in the planned sizes, (n,), at least one."""
    canvas: Shape
    """The padded height and width: the smallest that hold every image, or the smallest canvas allowed."""

    @property
    def computed_pixels(self) -> int:
        """Pixels that the network computes, padding included."""
        return len(self.images) * self.canvas.pixels


@dataclass(frozen=True, eq=False)
class Step:
    """One optimizer update. Each image weighs 1 / `num_images`, wherever it runs.

    Example:
        >>> sizes = [(400, 600), (600, 400), (410, 590), (640, 640)]
        >>> plan = unsquare.plan_epoch(sizes, unsquare.PlanConfig(step_images=4), unsquare.Limits(), epoch=0)
        >>> step = plan.steps[0]
        >>> step.num_images, len(step.ranks)
        (4, 1)
    """

    ranks: tuple[tuple[MicroBatch, ...], ...]
    """Micro-batches of each rank, largest first; a rank has none only if there are fewer images than ranks."""
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
    """Images whose micro-batches are drawn among themselves.

    Example:
        >>> shapes = [(400, 600), (410, 590)]
        >>> plan = unsquare.plan_epoch(shapes, unsquare.PlanConfig(steps="b2b"), unsquare.Limits(), epoch=0)
        >>> [(bucket.canvas, len(bucket.images)) for bucket in plan.buckets]
        [(Shape(height=410, width=600), 2)]
    """

    images: Positions
    """Positions in the planned sizes, (n,), ascending."""
    canvas: Shape
    """The bound: the smallest height and width that hold every image of the bucket."""
    superbucket: int
    """Number of the superbucket that the bucket belongs to, 0 for the fewest pixels."""


@final
class LazySteps(Sequence[Step]):
    """Steps that are planned when they are asked for; a few are cached.

    Args:
        num_images: images of each step over all ranks, (S,), known before any step is planned.
        make: plans the step at a position.
    """

    def __init__(self, num_images: npt.NDArray[np.integer], make: Callable[[int], Step]) -> None:
        self.num_images = num_images
        self._make = lru_cache(maxsize=8)(make)

    def __len__(self) -> int:
        return len(self.num_images)

    @overload
    def __getitem__(self, position: int) -> Step: ...

    @overload
    def __getitem__(self, position: slice) -> Sequence[Step]: ...

    def __getitem__(self, position: int | slice) -> Step | Sequence[Step]:
        numbers = range(len(self))[position]
        if isinstance(numbers, range):
            return LazySteps(self.num_images[position], lambda i: self._make(numbers[i]))
        return self._make(numbers)


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """A whole epoch: every image in exactly one micro-batch, or as often as it was drawn if images have weights.

    Example:
        >>> sizes = [(400, 600), (600, 400), (410, 590), (640, 640)]
        >>> limits = unsquare.Limits(budget_pixels=800_000)
        >>> plan = unsquare.plan_epoch(sizes, unsquare.PlanConfig(step_images=2), limits, epoch=0)
        >>> plan.images_per_step.tolist()
        [2, 2]
        >>> sorted(image for batch in plan.micro_batches for image in batch.images.tolist())
        [0, 1, 2, 3]
    """

    epoch: int
    seed: int
    sizes: Sizes
    """Shapes as planned, (N, 2): after resizing, cropping and turning."""
    turns: npt.NDArray[np.uint8]
    """Quarter turns of each image, (N,), 0 to 3, as `numpy.rot90` counts; `sizes` are after them."""
    steps: Sequence[Step]
    """The steps, each planned when it is asked for: iterate once, or keep what is needed twice."""
    buckets: tuple[Bucket, ...] = ()
    """The buckets in `b2b`; empty in `mixed`."""
    scales: npt.NDArray[np.float64] | None = None
    """The random scale of each image's sides, (N,); None keeps their size. `sizes` are after them."""

    @property
    def micro_batches(self) -> Iterator[MicroBatch]:
        """The micro-batches of all steps and ranks, in order of the steps."""
        return (micro_batch for step in self.steps for micro_batch in step.micro_batches)

    @property
    def images_per_step(self) -> npt.NDArray[np.integer]:
        """Images of each step over all ranks, (S,)."""
        if isinstance(self.steps, LazySteps):
            return self.steps.num_images
        return np.array([step.num_images for step in self.steps])


def near_equal(num_images: int, num_parts: int) -> Positions:
    """Number of images of each part, (num_parts,): all equal, or the first ones have one more."""
    return num_images // num_parts + (np.arange(num_parts) < num_images % num_parts)


def shapes_of(sizes: Sizes, images: Positions) -> npt.NDArray[np.int64]:
    """Shapes of these images, (n, 2), in int64, so that pixel counts do not overflow; `sizes` may be memory-mapped."""
    return np.asarray(sizes[images], dtype=np.int64)


def canvas_of(sizes: Sizes, images: Positions, canvases: Sizes | None = None) -> Shape:
    """The smallest height and width that hold all these images, or the first of the canvases (K, 2) that does."""
    top = sizes[images].max(axis=0)
    if canvases is not None:
        holds = (top <= canvases).all(axis=1)
        assert holds.any(), "a canvas holds the images"
        top = canvases[int(holds.argmax())]
    height, width = top
    return Shape(int(height), int(width))


def micro_batches_of(sizes: Sizes, groups: Iterable[Positions], canvases: Sizes | None = None) -> list[MicroBatch]:
    """A micro-batch on the smallest canvas for each group of positions."""
    return [MicroBatch(images=images, canvas=canvas_of(sizes, images, canvases)) for images in groups]
