"""Partition of a set of images into micro-batches of similar shape within the budget, each on its tight canvas.

A tree splits a set of images in two, by height or by width, where that saves most, until no split pays for its launch.
Every place to cut each order is priced at once from running maxima, O(n log n) for n images. A canvas shrinks only when
the tallest or the widest images leave it; cuts by pixel count and by aspect ratio changed the cost by less than 0.1 %.

Then single images move to the micro-batch where they cost least. Each round prices every move of one image at once, an
(n, parts) table, and makes the best moves that touch different parts, so that their savings add up. The total falls
with every round, until no single move saves.

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
from unsquare.shapes import Sizes

BLOCK_IMAGES = 4096
"""Larger sets are first cut into blocks of similar pixel count, which bounds the time per image. That costs almost
nothing: less than 0.01 % on MAMe, against one block for all."""
REFINE_IMAGES = 512
"""Images among which single ones may move: the search looks at every pair of image and micro-batch."""
ROUNDS = 32
"""The most rounds of moves. MAMe takes 3 to 8."""
NEVER = np.int64(2**61)
"""The price of a move that the budget forbids."""
_FORBIDDEN = np.iinfo(np.int64).max


def partition(sizes: Sizes, images: Positions, limits: Limits) -> list[Positions]:
    """Cut `images` into parts, each of which becomes one micro-batch on its tight canvas.

    Args:
        sizes: all planned shapes, (N, 2) of any integers, each within the budget.
        images: positions in `sizes` of the images to partition, (n,).
        limits: the cost to minimize, and the budget, a hard bound on every part.
    """
    shapes = shapes_of(sizes, images)
    order = np.arange(len(images))
    if len(images) > BLOCK_IMAGES:
        order = np.argsort(shapes.prod(axis=1), kind="stable")
    parts: list[Positions] = []
    for start in range(0, len(order), BLOCK_IMAGES):
        leaves = _grow(shapes, order[start : start + BLOCK_IMAGES], limits)
        for neighbors in _in_runs(leaves, REFINE_IMAGES):
            parts += [images[part] for part in refine(shapes, neighbors, limits)]
    return parts


def with_enough(sizes: Sizes, parts: list[Positions], limits: Limits, least: int) -> list[Positions]:
    """Parts of at least `least` images each: smaller ones join the part where that costs the fewest pixels.

    A part stays small where the budget lets it join none.

    Args:
        sizes: all planned shapes, (N, 2).
        parts: positions in `sizes`, each part within the budget.
        limits: the budget.
        least: the fewest images of a part.
    """
    parts, stuck = list(parts), 0
    while True:
        parts.sort(key=len)
        if stuck >= len(parts) or len(parts[stuck]) >= least:
            return parts
        small = parts[stuck]
        canvas = np.array([sizes[part].max(axis=0) for part in parts])  # (parts, 2)
        count = np.array([len(part) for part in parts])
        joined = np.maximum(canvas, canvas[stuck]).prod(axis=1) * (count + len(small))
        price = np.where(joined <= limits.budget_pixels, joined - canvas.prod(axis=1) * count, NEVER)
        price[stuck] = NEVER
        target = int(price.argmin())
        if price[target] == NEVER:
            stuck += 1
            continue
        parts[target] = np.concatenate([parts[target], small])
        del parts[stuck]


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


def _in_runs(leaves: list[Positions], most_images: int) -> list[list[Positions]]:
    """Consecutive leaves grouped into runs of at most `most_images` images (or a single leaf)."""
    runs: list[list[Positions]] = [[]]
    num_images = 0
    for leaf in leaves:
        if runs[-1] and num_images + len(leaf) > most_images:
            runs.append([])
            num_images = 0
        runs[-1].append(leaf)
        num_images += len(leaf)
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


# --- Moves of single images ---


def refine(sizes: Sizes, parts: list[Positions], limits: Limits) -> list[Positions]:
    """The parts after single images have moved as long as that saves; parts that become empty are dropped.

    Args:
        sizes: all planned shapes, (N, 2).
        parts: positions in `sizes`, each part within the budget.
        limits: the cost to minimize, and the budget, a hard bound on every part.
    """
    if len(parts) < 2:
        return parts
    images = np.concatenate(parts)
    part_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    for _ in range(ROUNDS):
        target, saving = _best_moves(sizes[images], part_of, len(parts), limits)
        if not _move(part_of, target, saving):
            break
    return [images[part_of == part] for part in range(len(parts)) if (part_of == part).any()]


def _best_moves(shapes: Sizes, part_of: Positions, num_parts: int, limits: Limits) -> tuple[Positions, Counts]:
    """The best other part for each image, (n,), and what moving there saves, (n,)."""
    count = np.bincount(part_of, minlength=num_parts)  # (parts,)
    height, height_without = _maxima(shapes[:, 0], part_of, num_parts)
    width, width_without = _maxima(shapes[:, 1], part_of, num_parts)
    pixels = count * height * width
    left = (count[part_of] - 1) * height_without * width_without
    gain = pixels[part_of] - left + limits.launch_pixels * (count[part_of] == 1)
    joined = np.maximum(height, shapes[:, :1]) * np.maximum(width, shapes[:, 1:]) * (count + 1)  # (n, parts)
    price = np.where((joined <= limits.budget_pixels) & (count > 0), joined - pixels, NEVER)
    rows = np.arange(len(shapes))
    price[rows, part_of] = NEVER
    target = price.argmin(axis=1)
    return target, gain - price[rows, target]


def _move(part_of: Positions, target: Positions, saving: Counts) -> bool:
    """Make the best moves that touch different parts, in place. Returns whether there was one."""
    touched: set[int] = set()
    for image in np.argsort(-saving, kind="stable")[: int((saving > 0).sum())]:
        ends = {int(part_of[image]), int(target[image])}
        if touched.isdisjoint(ends):
            touched |= ends
            part_of[image] = target[image]
    return bool(touched)


def _maxima(lengths: Counts, part_of: Positions, num_parts: int) -> tuple[Counts, Counts]:
    """The largest length of each part, (parts,), and of each image's part without the image, (n,)."""
    order = np.lexsort((lengths, part_of))
    ends = np.cumsum(np.bincount(part_of, minlength=num_parts)) - 1  # last of each part in the order
    starts = np.concatenate([[0], ends[:-1] + 1])
    largest = np.where(ends >= starts, lengths[order[ends]], 0)
    second = np.where(ends > starts, lengths[order[ends - 1]], 0)
    without = largest[part_of]
    tallest = order[ends[ends >= starts]]
    without[tallest] = second[part_of[tallest]]
    return largest, without
