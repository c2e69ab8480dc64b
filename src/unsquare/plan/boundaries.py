"""Boundaries along one order of images by the back-and-forth heuristic.

Order the images, place boundaries at equal counts, then go back and forth over the boundaries, moving each to
the best place between its two neighbours, until the cost no longer falls. Moving one boundary prices all its
places at once from running maxima, so a sweep over n images is O(n).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from unsquare.plan.config import Limits
from unsquare.plan.epoch import Positions
from unsquare.shapes import Sizes

SWEEPS = 100
LEAST_FALL = 1e-4
"""Relative fall of the cost in one sweep that is not worth the next; from 1e-3 on, MAMe's padding stays."""


def back_and_forth(shapes: Sizes, num_segments: int, limits: Limits) -> tuple[Positions, int]:
    """Boundaries of at most `num_segments` runs of the ordered shapes.

    Args:
        shapes: shapes in the order to be cut, (n, 2). A run pays for its largest height x width.
        num_segments: the most runs.
        limits: the cost to be made small.

    Returns:
        Ends of the runs, ascending, the last one n; and the cost of all runs.
    """
    cuts = np.linspace(0, len(shapes), num_segments + 1).round().astype(np.int64)
    total = sum(_run_cost(shapes[a:b], limits) for a, b in pairwise(cuts))
    for _ in range(SWEEPS):
        there = range(1, num_segments)
        saved = sum(_move(shapes, cuts, boundary, limits) for boundary in (*there, *reversed(there)))
        total -= saved
        if saved <= LEAST_FALL * total:
            break
    return np.unique(cuts[1:][cuts[1:] > 0]), total


def _move(shapes: Sizes, cuts: Positions, boundary: int, limits: Limits) -> int:
    """Put one boundary where it is best between its neighbours, in place; what that saves."""
    start, end = int(cuts[boundary - 1]), int(cuts[boundary + 1])
    costs = _costs_of_prefixes(shapes[start:end], limits)
    costs += _costs_of_prefixes(shapes[start:end][::-1], limits)[::-1]
    now, best = int(cuts[boundary]) - start, int(costs.argmin())
    saved = int(costs[now] - costs[best])
    if saved > 0:
        cuts[boundary] = start + best
    return saved


def _costs_of_prefixes(shapes: Sizes, limits: Limits) -> Positions:
    """Cost of a run of the first 0, 1, ..., n shapes, (n + 1,)."""
    canvas_pixels = np.maximum.accumulate(shapes, axis=0).prod(axis=1)
    counts = np.arange(1, len(shapes) + 1)
    return np.concatenate([[0], limits.cost(canvas_pixels, counts)])


def _run_cost(shapes: Sizes, limits: Limits) -> int:
    return int(_costs_of_prefixes(shapes, limits)[-1])
