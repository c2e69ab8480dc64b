"""A plan as columns: one pass over its steps, after which figures are a few NumPy calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from unsquare.plan.bound import least
from unsquare.plan.config import Limits
from unsquare.plan.epoch import EpochPlan, Positions, shapes_of
from unsquare.plan.ranks import rank_cost
from unsquare.shapes import Sizes

Column = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]
"""Told how much of how much is done."""


@final
@dataclass(frozen=True)
class Columns:
    """One row per micro-batch (M), per image in the order of the micro-batches (N), or per step (S)."""

    canvas: Column  # (M, 2)
    count: Column  # (M,)
    step: Column  # (M,)
    bucket: Column  # (M,), -1 in mixed steps
    images: Positions  # (N,)
    sizes: Sizes  # (N, 2), of `images`
    busiest_cost: Column  # (S,) of the rank that has most to do
    mean_cost: npt.NDArray[np.float64]  # (S,)
    least_batches: int
    """What no partition of the steps (in `mixed`) or of the epoch (in `b2b`) has fewer than."""
    least_cost: float

    @property
    def computed(self) -> Column:
        """Computed pixels of each micro-batch, (M,)."""
        return self.canvas.prod(axis=1) * self.count

    @property
    def start(self) -> Column:
        """Row of each micro-batch's first image, (M,)."""
        return np.cumsum(self.count) - self.count

    @property
    def real(self) -> Column:
        """Real pixels of each micro-batch, (M,)."""
        return np.add.reduceat(self.sizes.prod(axis=1), self.start)

    @property
    def step_of_image(self) -> Column:
        """Step of each image, (N,)."""
        return np.repeat(self.step, self.count)

    @property
    def batch_of_image(self) -> Column:
        """Row of each image's micro-batch, (N,)."""
        return np.repeat(np.arange(len(self.count)), self.count)

    @classmethod
    def of(cls, plan: EpochPlan, limits: Limits, progress: Progress | None = None) -> Columns:
        """The columns of a plan; in `mixed` this is the planning itself."""
        canvases: list[tuple[int, int]] = []
        images: list[Positions] = []
        batches_per_step, bucket, busiest, mean = [], [], [], []
        least_batches, least_cost = 0, 0.0
        for number, step in enumerate(plan.steps):
            costs = [rank_cost(rank, limits) for rank in step.ranks]
            busiest.append(max(costs))
            mean.append(sum(costs) / len(costs))
            batches = step.micro_batches
            batches_per_step.append(len(batches))
            bucket.append(-1 if step.bucket is None else step.bucket)
            canvases += [batch.canvas for batch in batches]
            images += [batch.images for batch in batches]
            if not plan.buckets:
                bound = least(shapes_of(plan.sizes, np.concatenate(images[-len(batches) :])), limits)
                least_batches, least_cost = least_batches + bound.micro_batches, least_cost + bound.cost
            if progress is not None:
                progress(number + 1, len(plan.steps))
        flat = np.concatenate(images)
        shapes = shapes_of(plan.sizes, flat)
        if plan.buckets:
            least_batches, least_cost = least(shapes, limits)
        return cls(
            canvas=np.array(canvases, dtype=np.int64),
            count=np.array([len(each) for each in images], dtype=np.int64),
            step=np.repeat(np.arange(len(busiest)), batches_per_step),
            bucket=np.repeat(np.array(bucket, dtype=np.int64), batches_per_step),
            images=flat,
            sizes=shapes,
            busiest_cost=np.array(busiest),
            mean_cost=np.array(mean),
            least_batches=least_batches,
            least_cost=least_cost,
        )
