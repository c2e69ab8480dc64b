"""The best cut of a set of images in two, by height or by width.

Images are sorted by either side, and every place to cut each order is priced at once from running maxima:
O(n log n) for n images. A canvas shrinks only when the tallest or the widest images leave it; cuts by pixel
count and by aspect ratio were measured as well and changed the cost by less than 0.1 % (docs/experiments.md).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unsquare.plan.config import Limits
from unsquare.plan.epoch import Positions
from unsquare.shapes import Sizes


class Split(NamedTuple):
    """Two parts of a set of images and what they cost together."""

    first: Positions
    second: Positions
    cost: int


def best_split(sizes: Sizes, images: Positions, limits: Limits) -> Split:
    """The cheapest cut of these images (at least two) into two parts, each on its own tight canvas."""
    shapes = sizes[images]
    orders = np.argsort(shapes, axis=0, kind="stable").T  # (2, n): by height, by width
    heights, widths = shapes[orders, 0], shapes[orders, 1]
    # The cut after k images leaves the k first of an order on one side.
    before = (_running_max(heights) * _running_max(widths))[:, :-1]
    after = (_running_max(heights[:, ::-1]) * _running_max(widths[:, ::-1]))[:, -2::-1]
    counts = np.arange(1, len(images))
    costs = limits.cost(before, counts) + limits.cost(after, counts[::-1])  # (2, n - 1)
    axis, cut = divmod(int(costs.argmin()), len(counts))
    order = images[orders[axis]]
    return Split(first=order[: cut + 1], second=order[cut + 1 :], cost=int(costs[axis, cut]))


def cost_together(sizes: Sizes, images: Positions, limits: Limits) -> int:
    """The cost of these images on one tight canvas."""
    canvas_pixels = sizes[images].max(axis=0).prod(keepdims=True)
    return int(limits.cost(canvas_pixels, np.array([len(images)]))[0])


def _running_max(values: Sizes) -> Sizes:
    return np.maximum.accumulate(values, axis=1)
