"""The best cut of a set of images in two, by height or by width.

Images are sorted by either side, and every place to cut each order is priced at once from running maxima:
O(n log n) for n images. A canvas shrinks only when the tallest or the widest images leave it; cuts by pixel
count and by aspect ratio were measured as well and changed the cost by less than 0.1 % (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from unsquare.plan.config import Cost, Counts
from unsquare.plan.epoch import Positions
from unsquare.shapes import Sizes


class Split(NamedTuple):
    """Two parts of a set of images and what they cost together."""

    first: Positions
    second: Positions
    cost: int


def best_split(
    sizes: Sizes,
    images: Positions,
    cost: Cost,
    counts: Counts | None = None,
    least: Callable[[Counts], Counts] | None = None,
) -> Split | None:
    """The cheapest cut of these images (at least two) into two parts, each on its own tight canvas.

    Args:
        sizes: all shapes, (N, 2) int64.
        images: positions in `sizes` of those to cut, (n,).
        cost: what is to be made small.
        counts: how many images have each of the shapes, (N,); None stands for one each.
        least: the fewest images of a part on canvases of so many pixels; None allows any part.

    Returns:
        None where no part may be that small.
    """
    shapes = sizes[images]
    orders = np.argsort(shapes, axis=0, kind="stable").T  # (2, n): by height, by width
    heights, widths = shapes[orders, 0], shapes[orders, 1]
    # The cut after k shapes leaves the k first of an order on one side.
    before = (_running_max(heights) * _running_max(widths))[:, :-1]
    after = (_running_max(heights[:, ::-1]) * _running_max(widths[:, ::-1]))[:, -2::-1]
    if counts is None:
        num_before = np.arange(1, len(images))
        num_after = num_before[::-1]
    else:
        totals = np.cumsum(counts[images][orders], axis=1)
        num_before, num_after = totals[:, :-1], totals[:, -1:] - totals[:, :-1]
    costs = cost(before, num_before) + cost(after, num_after)  # (2, n - 1)
    if least is not None:
        costs[(num_before < least(before)) | (num_after < least(after))] = _FORBIDDEN
    axis, cut = divmod(int(costs.argmin()), len(images) - 1)
    if costs[axis, cut] == _FORBIDDEN:
        return None
    order = images[orders[axis]]
    return Split(first=order[: cut + 1], second=order[cut + 1 :], cost=int(costs[axis, cut]))


def cost_together(sizes: Sizes, images: Positions, cost: Cost, counts: Counts | None = None) -> int:
    """The cost of these images on one tight canvas."""
    canvas_pixels = sizes[images].max(axis=0).prod(keepdims=True)
    num_images = len(images) if counts is None else counts[images].sum()
    return int(cost(canvas_pixels, np.array([num_images]))[0])


_FORBIDDEN = np.iinfo(np.int64).max


def _running_max(values: Sizes) -> Sizes:
    return np.maximum.accumulate(values, axis=1)
