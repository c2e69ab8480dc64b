"""Partition of a set of images into micro-batches of similar shape within the budget, each on its tight canvas.

A tree splits a set of images in two, by height or by width, where that saves most, until no split pays for its launch.
Every place to cut each order is priced at once from running maxima, O(n log n) for n images. A canvas shrinks only when
the tallest or the widest images leave it; cuts by pixel count and by aspect ratio changed the cost by less than 0.1 %.

Then single images move to the micro-batch where they cost least. Where micro-batches must have enough images, leaves of
the tree are joined and cut anew.

The best partition cannot be computed in reasonable time (bin packing is a special case). Agglomerative merging, dynamic
programming along the order of the leaves, and rounds of splitting and merging were measured too (docs/experiments.md):
their cost is within 0.3 % of this, at up to ten times the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from unsquare.plan.config import Cost, Counts, Limits
from unsquare.plan.epoch import Positions, shapes_of
from unsquare.plan.partition.enough import joined, parts_with_enough
from unsquare.plan.partition.moves import PartCosts, refine
from unsquare.shapes import Sizes

BLOCK_IMAGES = 4096
"""Larger sets are first cut into blocks of similar pixel count, which bounds the time per image. That costs almost
nothing: less than 0.01 % on MAMe, against one block for all."""
REFINED_IMAGES = 512
"""Images among which single ones may move: the search looks at every pair of image and micro-batch."""
JOINED_IMAGES = 256
"""Images that are cut anew together where micro-batches must have enough: the search looks at every pair of images."""
_FORBIDDEN = np.iinfo(np.int64).max


def partition(sizes: Sizes, images: Positions, limits: Limits, least: int = 1) -> list[Positions]:
    """Cut `images` into parts, each of which becomes one micro-batch on its tight canvas.

    Args:
        sizes: all planned shapes, (N, 2) of any integers, each within the budget.
        images: positions in `sizes` of the images to partition, (n,).
        limits: the cost to minimize, and the budget, a hard bound on every part.
        least: the fewest images of a part where the budget allows more.
    """
    shapes = shapes_of(sizes, images)
    costs = PartCosts(shapes, limits, least)
    order = np.arange(len(images))
    if len(images) > BLOCK_IMAGES:
        order = np.argsort(shapes.prod(axis=1), kind="stable")
    parts: list[Positions] = []
    for start in range(0, len(order), BLOCK_IMAGES):
        leaves = _grow(shapes, order[start : start + BLOCK_IMAGES], limits)
        for neighbors in _in_runs(leaves, REFINED_IMAGES if least == 1 else JOINED_IMAGES, least):
            parts += refine(neighbors, costs) if least == 1 else parts_with_enough(np.concatenate(neighbors), costs)
    if least > 1:
        parts = joined(parts, costs)
    return [images[part] for part in parts]


def _grow(sizes: Sizes, images: Positions, limits: Limits) -> list[Positions]:
    """Leaves of the tree, in its order: neighbors in the list have similar shapes."""
    leaves: list[Positions] = []
    stack = [images]
    while stack:
        node = stack.pop()
        parts = _split(sizes, node, limits)
        if parts:
            stack += parts
        else:
            leaves.append(node)
    return leaves


def _split(sizes: Sizes, images: Positions, limits: Limits) -> list[Positions]:
    """Two parts if they cost less than the whole or the whole exceeds the budget; otherwise none."""
    if len(images) == 1:
        return []
    split = best_split(sizes, images, limits.cost)
    assert split is not None, "any part is allowed"
    fits = int(sizes[images].max(axis=0).prod()) * len(images) <= limits.budget_pixels
    if fits and split.cost >= cost_together(sizes, images, limits.cost):
        return []
    return [split.second, split.first]


def _in_runs(leaves: list[Positions], most_images: int, least: int) -> list[list[Positions]]:
    """Consecutive leaves grouped into runs of at most `most_images` images, or as many as make at least `least`."""
    runs: list[list[Positions]] = [[]]
    num_images = 0
    for leaf in leaves:
        if num_images >= least and num_images + len(leaf) > most_images:
            runs.append([])
            num_images = 0
        runs[-1].append(leaf)
        num_images += len(leaf)
    if num_images < least and len(runs) > 1:
        last = runs.pop()
        runs[-1] += last
    return runs


# --- The best cut in two ---


class Split(NamedTuple):
    """Two parts of a set of images, and the cost of both."""

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
        cost: the cost to minimize.
        counts: number of images of each shape, (N,); None means one each.
        least: from canvas pixels, the fewest images that a part may have; None allows any part.

    Returns:
        The cut, or None if every cut leaves a part with too few images.
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


def _running_max(values: Sizes) -> Sizes:
    return np.maximum.accumulate(values, axis=1)
