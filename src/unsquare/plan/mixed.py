"""Mixed steps: an ordinary shuffle, each step of which is cut into micro-batches of similar shape.

With norms that do not mix images, gradients accumulated over the micro-batches are those of ordinary SGD at that batch
size: buckets introduce no bias, and the learning rate need not be adapted to the memory.
"""

from __future__ import annotations

import numpy as np

from unsquare.plan.config import Limits, PlanConfig
from unsquare.plan.draw import Order, Purpose
from unsquare.plan.epoch import LazySteps, Positions, Step, near_equal
from unsquare.plan.partition.on_canvases import partition_on_canvases
from unsquare.plan.partition.ranks import spread
from unsquare.plan.partition.tight import partition
from unsquare.shapes import Sizes


def mixed_steps(
    sizes: Sizes, drawn: Positions | None, config: PlanConfig, limits: Limits, epoch: int, canvases: Sizes | None = None
) -> LazySteps:
    """Near-equal steps of at most `step_images` images each, whose images do not depend on the world size.

    Args:
        sizes: planned shapes, (N, 2).
        drawn: positions of the images of the epoch, (M,), with repeats; None takes each once.
        config: the seed and the images of a step.
        limits: budget, launch and world size.
        epoch: number of the epoch.
        canvases: the only canvases allowed, (K, 2), by ascending pixels; None makes each tight.
    """
    num_images = len(sizes) if drawn is None else len(drawn)
    order = Order(config.seed, epoch, Purpose.ORDER, num_images)
    share = near_equal(num_images, -(-num_images // config.most_images(num_images)))
    ends = np.cumsum(share)

    def step(number: int) -> Step:
        images = order.run(ends[number] - share[number], ends[number])
        if drawn is not None:
            images = drawn[images]
        if canvases is None:
            parts = partition(sizes, images, limits, config.least_images)
        else:
            parts = [part for part, _ in partition_on_canvases(sizes, images, canvases, limits)]
        return Step(spread(sizes, parts, limits, canvases, least=config.least_images))

    return LazySteps(share, step)
