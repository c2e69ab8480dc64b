"""Mixed steps: an ordinary shuffle, each step of which is cut into micro-batches of like shape.

With norms that do not cross images, gradients accumulated over the micro-batches are those of ordinary SGD at
that batch size: no bucket bias, and no learning rate to adapt, whatever the memory.
"""

from __future__ import annotations

import numpy as np

from unsquare.plan.config import Limits, PlanConfig
from unsquare.plan.draw import Purpose, permutation
from unsquare.plan.epoch import Step
from unsquare.plan.partition import partition
from unsquare.plan.ranks import spread
from unsquare.shapes import Sizes


def mixed_steps(sizes: Sizes, config: PlanConfig, limits: Limits, epoch: int) -> tuple[Step, ...]:
    """Near-equal steps of at most `step_images` images; which images, no world size can change."""
    order = permutation(config.seed, epoch, Purpose.ORDER, len(sizes))
    num_steps = -(-len(order) // config.most_images(len(order)))
    return tuple(
        Step(spread(sizes, partition(sizes, images, limits), limits)) for images in np.array_split(order, num_steps)
    )
