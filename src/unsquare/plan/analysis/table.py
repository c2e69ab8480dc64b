"""An epoch as a table: one pass over its steps, after which every figure takes a few NumPy calls.

A rule of another project may cut half a million images into as many micro-batches, so an epoch is a few arrays rather
than a list of objects. Plans and those rules give the same table, so the same functions measure both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from unsquare.plan.config import Counts, Limits
from unsquare.plan.epoch import EpochPlan, MicroBatch, Positions, shapes_of
from unsquare.progress import Progress
from unsquare.shapes import Shape, Sizes


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class PlanTable:
    """One row per micro-batch (M), in order of training, and one per image, in the order of the micro-batches (N).

    Micro-batches of a step follow each other, and within it those of a rank.
    """

    images: Positions
    """Positions in the planned sizes, micro-batch after micro-batch, (N,)."""
    sizes: Sizes
    """Planned shape of each of `images`, (N, 2)."""
    count: Counts
    """Images of each micro-batch, (M,)."""
    canvas: Sizes
    """Height and width of each micro-batch, (M, 2)."""
    step: Counts
    """Number of the step of each micro-batch, (M,), ascending from 0."""
    rank: Counts
    """Number of the rank that runs each micro-batch, (M,)."""
    bucket: Counts
    """Bucket of each micro-batch, (M,); -1 in steps that come from no single bucket."""

    @classmethod
    def of_plan(cls, plan: EpochPlan, progress: Progress | None = None) -> PlanTable:
        """The table of a plan. Its steps are planned here, if they have not been before.

        Args:
            plan: what `plan_epoch` returned.
            progress: told the number of steps planned and of all steps.
        """
        canvases: list[Shape] = []
        images: list[Positions] = []
        places: list[tuple[int, int, int]] = []  # step, rank and bucket of each micro-batch
        for number, step in enumerate(plan.steps):
            bucket = -1 if step.bucket is None else step.bucket
            for rank, batches in enumerate(step.ranks):
                canvases += [batch.canvas for batch in batches]
                images += [batch.images for batch in batches]
                places += [(number, rank, bucket)] * len(batches)
            if progress is not None:
                progress(number + 1, len(plan.steps))
        flat = np.concatenate(images)
        steps, ranks, buckets = np.array(places, dtype=np.int64).T
        return cls(
            images=flat,
            sizes=shapes_of(plan.sizes, flat),
            count=np.array([len(each) for each in images], dtype=np.int64),
            canvas=np.array(canvases, dtype=np.int64),
            step=steps,
            rank=ranks,
            bucket=buckets,
        )

    @classmethod
    def of_micro_batches(cls, sizes: Sizes, micro_batches: Iterable[MicroBatch]) -> PlanTable:
        """The table of micro-batches, each a step by itself; `sizes` are all planned shapes."""
        given = list(micro_batches)
        canvas = np.array([batch.canvas for batch in given], dtype=np.int64)
        count = np.array([len(batch.images) for batch in given], dtype=np.int64)
        return cls.of_runs(sizes, np.concatenate([batch.images for batch in given]), count, canvas)

    @classmethod
    def of_runs(cls, sizes: Sizes, images: Positions, count: Counts, canvas: Sizes | None = None) -> PlanTable:
        """The table of consecutive runs of images, each a micro-batch and a step by itself.

        Args:
            sizes: all planned shapes, (any, 2).
            images: positions in `sizes`, (N,).
            count: length of each run, (M,), with sum N.
            canvas: canvas of each run, (M, 2); None pads each run to its largest height and width.
        """
        shapes = shapes_of(sizes, images)
        if canvas is None:
            canvas = np.maximum.reduceat(shapes, np.cumsum(count) - count, axis=0)
        return cls(
            images=images,
            sizes=shapes,
            count=count,
            canvas=canvas,
            step=np.arange(len(count)),
            rank=np.zeros(len(count), dtype=np.int64),
            bucket=np.full(len(count), -1),
        )

    @property
    def computed_pixels(self) -> Counts:
        """Computed pixels of each micro-batch, (M,)."""
        return self.canvas.prod(axis=1) * self.count

    @property
    def real_pixels(self) -> Counts:
        """Real pixels of each micro-batch, (M,)."""
        return np.add.reduceat(self.sizes.prod(axis=1), self.start)

    @property
    def start(self) -> Positions:
        """Row of each micro-batch's first image, (M,)."""
        return np.cumsum(self.count) - self.count

    @property
    def step_of_image(self) -> Counts:
        """Number of each image's step, (N,)."""
        return np.repeat(self.step, self.count)

    @property
    def batch_of_image(self) -> Positions:
        """Row of each image's micro-batch, (N,)."""
        return np.repeat(np.arange(len(self)), self.count)

    def in_order(self, order: Positions) -> PlanTable:
        """The same micro-batches in another order, each a step by itself; `order` has the M row numbers."""
        count = self.count[order]
        within = np.arange(len(self.images)) - np.repeat(np.cumsum(count) - count, count)
        rows = np.repeat(self.start[order], count) + within
        return PlanTable(
            images=self.images[rows],
            sizes=self.sizes[rows],
            count=count,
            canvas=self.canvas[order],
            step=np.arange(len(count)),
            rank=self.rank[order],
            bucket=self.bucket[order],
        )

    def __len__(self) -> int:
        return len(self.count)

    def __iter__(self) -> Iterator[MicroBatch]:
        parts = np.split(self.images, self.start[1:])
        return (MicroBatch(images=part, canvas=Shape(*map(int, c))) for part, c in zip(parts, self.canvas))


def batch_costs(table: PlanTable, limits: Limits) -> Counts:
    """The cost of each micro-batch, (M,): computed pixels at their price and one launch, as pixels."""
    return limits.priced(table.computed_pixels) + limits.launch_pixels


def epoch_cost(table: PlanTable, limits: Limits) -> int:
    """The cost of all micro-batches one after the other, as pixels."""
    return int(batch_costs(table, limits).sum())


def step_costs(table: PlanTable, limits: Limits) -> tuple[Counts, npt.NDArray[np.float64]]:
    """The cost of each step's busiest rank, (S,), and the mean over its ranks, (S,)."""
    costs = batch_costs(table, limits)
    of_rank = np.flatnonzero(np.diff(table.step, prepend=-1) | np.diff(table.rank, prepend=0))
    of_step = np.flatnonzero(np.diff(table.step[of_rank], prepend=-1))
    busiest = np.maximum.reduceat(np.add.reduceat(costs, of_rank), of_step)
    return busiest, np.add.reduceat(costs, of_rank[of_step]) / limits.world_size


def num_over_budget(table: PlanTable, limits: Limits) -> int:
    """How many micro-batches exceed the budget, or with a single image the most pixels that fit in any way."""
    held = np.where(table.count == 1, limits.largest_pixels, limits.budget_pixels)
    return int((table.computed_pixels > held).sum())
