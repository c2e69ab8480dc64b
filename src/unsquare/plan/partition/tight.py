"""Partition of a set of images into micro-batches of like shape within the budget.

A tree splits where it saves most until no split pays for its launch; then single images move between
micro-batches while that saves (`refine`). The best partition is out of reach (bin packing is a special case).
Agglomerative merging, dynamic programming along the order of the leaves, and rounds of splitting and merging
were measured too (docs/experiments.md): their cost is within 0.3 % of this, at up to ten times the time.
"""

from __future__ import annotations

import numpy as np

from unsquare.plan.config import Limits
from unsquare.plan.epoch import Positions, shapes_of
from unsquare.plan.refine import refine
from unsquare.plan.split import best_split, cost_together
from unsquare.shapes import Sizes

BLOCK_IMAGES = 4096
"""Larger sets are first cut into blocks of like pixel count, which bounds the time per image. With so many
neighbours at hand it costs nothing that shows: on MAMe in one piece, less than 0.01 %."""
REFINE_IMAGES = 512
"""Images among which single ones may move: the search looks at every pair of image and micro-batch."""


def partition(sizes: Sizes, images: Positions, limits: Limits) -> list[Positions]:
    """Parts of `images`, each to be one micro-batch on its tight canvas.

    Args:
        sizes: all planned shapes, (N, 2) of any integers, each within the budget.
        images: positions in `sizes` of the images to partition, (n,).
        limits: the cost to be made small, and the budget, a hard bound on every part.
    """
    shapes = shapes_of(sizes, images)
    order = np.arange(len(images))
    if len(images) > BLOCK_IMAGES:
        order = np.argsort(shapes.prod(axis=1), kind="stable")
    parts: list[Positions] = []
    for start in range(0, len(order), BLOCK_IMAGES):
        leaves = _grow(shapes, order[start : start + BLOCK_IMAGES], limits)
        for neighbours in _in_runs(leaves, REFINE_IMAGES):
            parts += [images[part] for part in refine(shapes, neighbours, limits)]
    return parts


def _grow(sizes: Sizes, images: Positions, limits: Limits) -> list[Positions]:
    """Leaves of the tree, in its order: neighbours in the list are alike."""
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
    """Two parts where they cost less than the whole or where the whole exceeds the budget; else none."""
    if len(images) == 1:
        return []
    split = best_split(sizes, images, limits.cost)
    assert split is not None, "any part is allowed"
    fits = int(sizes[images].max(axis=0).prod()) * len(images) <= limits.budget_pixels
    if fits and split.cost >= cost_together(sizes, images, limits.cost):
        return []
    return [split.second, split.first]


def _in_runs(leaves: list[Positions], most_images: int) -> list[list[Positions]]:
    """Consecutive leaves gathered into runs of at most `most_images` images (or a single leaf)."""
    runs: list[list[Positions]] = [[]]
    num_images = 0
    for leaf in leaves:
        if runs[-1] and num_images + len(leaf) > most_images:
            runs.append([])
            num_images = 0
        runs[-1].append(leaf)
        num_images += len(leaf)
    return runs
