"""Buckets with too few images for one step join others: no step of one image where it has neighbours."""

from __future__ import annotations

import numpy as np

from unsquare.plan.canvases import cheapest_canvas
from unsquare.plan.config import Counts, Limits
from unsquare.plan.epoch import Positions
from unsquare.shapes import Sizes


def merge_small(
    shapes: Sizes, counts: Counts, groups: list[tuple[int, Positions]], limits: Limits, orientations: int = 1
) -> list[tuple[int, Positions]]:
    """The groups after each with too few images (`Limits.enough`) has joined the one where that costs least.

    A group joins none where each joint canvas would exceed the budget.

    Args:
        shapes: distinct shapes, (U, 2).
        counts: how many images have each of them, (U,).
        groups: number of the superbucket and positions in `shapes` of each bucket.
        limits: budget, launch and world size.
        orientations: how many times each image counts; an epoch has so much fewer.
    """
    groups = list(groups)
    canvas = np.array([shapes[part].max(axis=0) for _, part in groups])  # (K, 2)
    number = np.array([counts[part].sum() for _, part in groups])
    stuck = np.zeros(len(groups), dtype=bool)
    while True:
        small = ~stuck & (number < orientations * limits.enough(canvas.prod(axis=1)))
        if not small.any() or len(groups) == 1:
            return groups
        least = int(np.where(small, number, np.iinfo(np.int64).max).argmin())
        joint = np.maximum(canvas, canvas[least]).prod(axis=1)
        added = limits.step_cost(joint, number + number[least]) - limits.step_cost(canvas.prod(axis=1), number)
        allowed = joint <= limits.budget_pixels
        allowed[least] = False
        if not allowed.any():
            stuck[least] = True
            continue
        into = int(np.where(allowed, added, np.iinfo(np.int64).max).argmin())
        superbucket = max(groups[into][0], groups[least][0])
        groups[into] = (superbucket, np.concatenate([groups[into][1], groups[least][1]]))
        canvas[into] = np.maximum(canvas[into], canvas[least])
        number[into] += number[least]
        stuck[into] = False
        del groups[least]
        canvas, number, stuck = (np.delete(each, least, axis=0) for each in (canvas, number, stuck))


def without_small(shapes: Sizes, counts: Counts, canvases: Sizes, limits: Limits, orientations: int = 1) -> Sizes:
    """The canvases, (K, 2), without those that too few images (`Limits.enough`) take and others hold as well."""
    while len(canvases) > 1:
        cheapest = cheapest_canvas(shapes, canvases)
        number = np.bincount(cheapest, counts, minlength=len(canvases))
        for small in np.argsort(number, kind="stable"):
            others = np.delete(canvases, small, axis=0)
            too_few = number[small] < orientations * limits.enough(canvases[small].prod())
            if too_few and (cheapest_canvas(shapes[cheapest == small], others) >= 0).all():
                canvases = others
                break
        else:
            break
    return canvases
