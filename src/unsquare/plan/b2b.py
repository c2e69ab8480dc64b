"""Buckets to Buckets: each step is one micro-batch per rank, all from one bucket, as large as memory allows.

The batch size depends on the canvas and so changes from step to step. Images are shuffled within their bucket. Steps of
a bucket are spread evenly over the epoch, so that sizes alternate and any stretch of steps has nearly the class mix of
the whole (shape is correlated with class). If a micro-batch holds few images and one on each rank cannot hold them all,
some ranks run two micro-batches, so that no rank has none: frameworks that reduce gradients in the backward pass would
wait for it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from unsquare.plan.config import Limits, PlanConfig
from unsquare.plan.draw import Order, Purpose, bits
from unsquare.plan.epoch import Bucket, LazySteps, MicroBatch, Positions, Step, micro_batches_of, near_equal
from unsquare.shapes import Shape, Sizes


def b2b_steps(
    sizes: Sizes,
    buckets: tuple[Bucket, ...],
    config: PlanConfig,
    limits: Limits,
    epoch: int,
    canvases: Sizes | None = None,
) -> LazySteps:
    """Steps over all buckets, each image of each bucket exactly once.

    Steps of a bucket are as few as its bound allows and near-equal in size, rather than full ones and a remainder, so
    that no tiny last step has a noisy gradient. If that would leave ranks without an image, the last step takes the
    remaining images as well.

    Args:
        sizes: planned shapes, (N, 2).
        buckets: positions of the epoch's images.
        config: the seed.
        limits: budget and world size.
        epoch: number of the epoch.
        canvases: the only canvases allowed, (K, 2), by ascending pixels; None makes each tight.
    """
    shares = [_shares(bucket, limits) for bucket in buckets]
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
        return Step(on_ranks(sizes, images, limits, canvases, buckets[bucket].canvas), bucket=bucket)

    return LazySteps(share[order], step)


def _shares(bucket: Bucket, limits: Limits) -> Positions:
    """Images of each step of a bucket, (steps,)."""
    num_images, num_ranks = len(bucket.images), limits.world_size
    shares = near_equal(num_images, -(-num_images // (num_ranks * _capacity(bucket.canvas, limits))))
    if (
        shares[-1] < num_ranks < num_images
    ):  # 8 ranks run 9 images that fill a rank each in one step, not in two of 5 and 4
        shares = np.full(num_images // num_ranks, num_ranks)
        shares[-1] += num_images % num_ranks
    return shares


def _capacity(canvas: Shape, limits: Limits) -> int:
    # If the bound exceeds the budget (of a tall and a wide image), images go one at a time, which always fits.
    return max(limits.budget_pixels // canvas.pixels, 1)


def _interleaved(num_steps: Positions, seed: int, epoch: int) -> Positions:
    """An order of all steps, (S,): the j-th of a bucket's n steps falls at random within the j-th n-th of the epoch."""
    chance = (bits(seed, epoch, Purpose.STEPS, int(num_steps.sum())) >> np.uint64(11)) / 2.0**53
    number = np.arange(len(chance)) - np.repeat(np.cumsum(num_steps) - num_steps, num_steps)
    return np.argsort((number + chance) / np.repeat(num_steps, num_steps), kind="stable")


def on_ranks(
    sizes: Sizes, images: Positions, limits: Limits, canvases: Sizes | None, bound: Shape
) -> tuple[tuple[MicroBatch, ...], ...]:
    """One micro-batch of near-equal count on every rank that gets an image, or more if one does not hold them.

    Args:
        sizes: planned shapes, (N, 2).
        images: positions of the step's images, (n,).
        limits: budget and world size.
        canvases: the only canvases allowed, (K, 2), by ascending pixels; None makes each tight.
        bound: a canvas that holds all of the images.
    """
    capacity = _capacity(bound, limits)
    ranks = []
    for part in np.array_split(images, limits.world_size):
        ranks.append(
            micro_batches_of(sizes, np.array_split(part, -(-len(part) // capacity)) if len(part) else (), canvases)
        )
    return tuple(map(tuple, ranks))
