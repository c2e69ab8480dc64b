"""Buckets to Buckets: each step is one micro-batch per rank, all from one bucket, as large as memory allows.

The batch size follows the canvas and so changes from step to step. Images are shuffled within their bucket. Steps of a
bucket are spread evenly over the epoch, so that sizes alternate and any stretch of steps has nearly the mix of classes
of the whole (shape tells of the class).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from unsquare.plan.config import Limits, PlanConfig
from unsquare.plan.draw import Order, Purpose, bits
from unsquare.plan.epoch import Bucket, LazySteps, MicroBatch, Positions, Step, canvas_of, near_equal
from unsquare.shapes import Sizes


def b2b_steps(
    sizes: Sizes,
    buckets: tuple[Bucket, ...],
    config: PlanConfig,
    limits: Limits,
    epoch: int,
    canvases: Sizes | None = None,
) -> LazySteps:
    """Steps over all buckets, each image of each bucket exactly once.

    Steps of a bucket are as few as its bound canvas allows and near-equal in number, rather than full ones and a
    remainder: no tiny last step with its own noisy gradient.

    Args:
        sizes: planned shapes, (N, 2).
        buckets: positions of the epoch's images.
        config: the seed.
        limits: budget and world size.
        epoch: number of the epoch.
        canvases: the only canvases allowed, (K, 2), by ascending pixels; None makes each tight.
    """
    shares = [near_equal(len(bucket.images), _num_steps(bucket, limits)) for bucket in buckets]
    num_steps = np.array([len(share) for share in shares])
    order = _interleaved(num_steps, config.seed, epoch)
    bucket_of_step = np.repeat(np.arange(len(buckets)), num_steps)
    share = np.concatenate(shares)
    ends = np.cumsum(share)
    before = np.cumsum([len(bucket.images) for bucket in buckets]) - [len(bucket.images) for bucket in buckets]

    @lru_cache(maxsize=len(buckets))
    def order_of(bucket: int) -> Order:
        return Order(config.seed, epoch, Purpose.BUCKET, len(buckets[bucket].images), bucket)

    def step(number: int) -> Step:
        place = order[number]
        bucket = int(bucket_of_step[place])
        end = ends[place] - before[bucket]
        images = buckets[bucket].images[order_of(bucket).run(end - share[place], end)]
        return Step(on_ranks(sizes, images, limits.world_size, canvases), bucket=bucket)

    return LazySteps(share[order], step)


def _num_steps(bucket: Bucket, limits: Limits) -> int:
    # A bound larger than the budget (a tall and a wide image) leaves one image a time, which always fits.
    capacity = max(limits.budget_pixels // bucket.canvas.pixels, 1) * limits.world_size
    return -(-len(bucket.images) // capacity)


def _interleaved(num_steps: Positions, seed: int, epoch: int) -> Positions:
    """An order of all steps, (S,): the j-th of a bucket's n steps falls at random within the j-th n-th of the epoch."""
    chance = (bits(seed, epoch, Purpose.STEPS, int(num_steps.sum())) >> np.uint64(11)) / 2.0**53
    number = np.arange(len(chance)) - np.repeat(np.cumsum(num_steps) - num_steps, num_steps)
    return np.argsort((number + chance) / np.repeat(num_steps, num_steps), kind="stable")


def on_ranks(
    sizes: Sizes, images: Positions, world_size: int, canvases: Sizes | None = None
) -> tuple[tuple[MicroBatch, ...], ...]:
    """One micro-batch of near-equal count on every rank, as far as there are images."""
    parts = np.array_split(images, world_size)
    return tuple((MicroBatch(part, canvas_of(sizes, part, canvases)),) if len(part) else () for part in parts)
