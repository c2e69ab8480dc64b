"""Buckets to Buckets: each step is one micro-batch per rank, all from one bucket, as large as memory allows.

The batch size follows the canvas and so changes from step to step. Images are shuffled within their bucket
and steps across buckets, so that sizes alternate and no class waits for its bucket's turn.
"""

from __future__ import annotations

import numpy as np

from unsquare.plan.config import Limits, PlanConfig
from unsquare.plan.draw import Purpose, permutation
from unsquare.plan.epoch import Bucket, MicroBatch, Positions, Step, canvas_of
from unsquare.shapes import Sizes


def b2b_steps(
    sizes: Sizes, buckets: tuple[Bucket, ...], config: PlanConfig, limits: Limits, epoch: int
) -> tuple[Step, ...]:
    """Steps over all buckets in random order, each image exactly once.

    Args:
        sizes: planned shapes, (N, 2).
        buckets: a partition of the N positions.
        config: the seed.
        limits: budget and world size.
        epoch: number of the epoch.
    """
    rank_in_order = np.empty(len(sizes), dtype=np.int64)
    rank_in_order[permutation(config.seed, epoch, Purpose.ORDER, len(sizes))] = np.arange(len(sizes))
    steps = [
        Step(_on_ranks(sizes, images, limits.world_size), bucket=number)
        for number, bucket in enumerate(buckets)
        for images in _near_equal(bucket, rank_in_order, limits)
    ]
    return tuple(steps[i] for i in permutation(config.seed, epoch, Purpose.STEPS, len(steps)))


def _near_equal(bucket: Bucket, rank_in_order: Positions, limits: Limits) -> list[Positions]:
    """The bucket's images, shuffled, in as few steps as the bound canvas allows, near-equal in number.

    Near-equal rather than full steps and a remainder: no tiny last step with its own noisy gradient.
    """
    shuffled = bucket.images[np.argsort(rank_in_order[bucket.images])]
    # A bound larger than the budget (a tall and a wide image) leaves one image a time, which always fits.
    capacity = max(limits.budget_pixels // bucket.canvas.pixels, 1) * limits.world_size
    return np.array_split(shuffled, -(-len(shuffled) // capacity))


def _on_ranks(sizes: Sizes, images: Positions, world_size: int) -> tuple[tuple[MicroBatch, ...], ...]:
    parts = np.array_split(images, world_size)
    return tuple((MicroBatch(part, canvas_of(sizes, part)),) if len(part) else () for part in parts)
