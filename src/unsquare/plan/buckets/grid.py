"""Buckets as a grid: superbuckets by pixel count, each cut into buckets by aspect ratio.

Both are runs of one order of shapes, whose boundaries are found in one of two ways. `back_and_forth` places boundaries
at equal counts, then goes back and forth over them, moving each to the best place between its two neighbors, until the
cost no longer falls. Moving one boundary prices all its places at once from running maxima, so a sweep over n shapes
is O(n). `least_cost` is dynamic programming over the whole order, O(boundaries n^2) for n shapes. Above `MOST_PLACES`
shapes, neighbors in the order are first grouped into runs of near-equal count, and boundaries lie between those runs.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from unsquare.plan.buckets.distinct import DistinctShapes
from unsquare.plan.config import Cost, Counts, Limits
from unsquare.plan.epoch import Positions
from unsquare.shapes import Sizes

SWEEPS = 100
LEAST_FALL = 1e-4
"""Relative fall of the cost in one sweep below which sweeps end; from 1e-3 on, MAMe's padding stays the same."""
MOST_PLACES = 512
"""The most places for a boundary in dynamic programming."""
_NEVER = float(2**62)

ShapeGroup = tuple[int, Positions]
"""The number of a superbucket, and positions of distinct shapes that form one of its buckets."""
BoundaryRule = Callable[[Sizes, Counts, int, Cost], tuple[Positions, int]]
"""`back_and_forth` or `least_cost`."""


def cheapest_grid(distinct: DistinctShapes, most: int, limits: Limits, rule: BoundaryRule) -> list[ShapeGroup]:
    """The cheapest grid of at most `most` buckets among those whose number of superbuckets is a power of two."""
    order = np.argsort(distinct.shapes.prod(axis=1), kind="stable")
    trials = [_grid(distinct, order, 2**power, most // 2**power, limits, rule) for power in range(most.bit_length())]
    return min(trials, key=lambda trial: trial[1])[0]


def _grid(
    distinct: DistinctShapes,
    order: Positions,
    num_superbuckets: int,
    num_aspects: int,
    limits: Limits,
    rule: BoundaryRule,
) -> tuple[list[ShapeGroup], int]:
    """Superbuckets by pixel count, each cut into at most `num_aspects` buckets by aspect; and their cost."""
    shapes, counts = distinct.shapes, distinct.counts
    pixels = shapes[order].prod(axis=1)
    # As if aspect ratios cost nothing: the next cut takes care of them.
    ends, _ = rule(np.stack([pixels, np.ones_like(pixels)], axis=1), counts[order], num_superbuckets, limits.step_cost)
    groups: list[ShapeGroup] = []
    total = 0
    for number, part in enumerate(np.split(order, ends[:-1])):
        aspect = shapes[part, 0] / shapes[part, 1]
        part = part[np.argsort(aspect, kind="stable")]
        inner_ends, inner_cost = rule(shapes[part], counts[part], num_aspects, limits.step_cost)
        groups += [(number, run) for run in np.split(part, inner_ends[:-1])]
        total += inner_cost
    return groups, total


def back_and_forth(shapes: Sizes, counts: Counts, num_segments: int, cost: Cost) -> tuple[Positions, int]:
    """Boundaries of at most `num_segments` runs of the ordered shapes.

    Args:
        shapes: shapes in the order to be cut, (n, 2). The canvas of a run is its largest height x width.
        counts: number of images of each shape, (n,).
        num_segments: the most runs.
        cost: the cost to minimize.

    Returns:
        Ends of the runs, ascending, the last one n; and the cost of all runs.
    """
    cuts = _equal_counts(counts, num_segments)
    total = sum(_run_cost(shapes[a:b], counts[a:b], cost) for a, b in pairwise(cuts))
    for _ in range(SWEEPS):
        there = range(1, num_segments)
        saved = sum(_move(shapes, counts, cuts, boundary, cost) for boundary in (*there, *reversed(there)))
        total -= saved
        if saved <= LEAST_FALL * total:
            break
    return np.unique(cuts[1:][cuts[1:] > 0]), total


def least_cost(shapes: Sizes, counts: Counts, num_segments: int, cost: Cost) -> tuple[Positions, int]:
    """The cheapest boundaries of at most `num_segments` runs, with the arguments and results of `back_and_forth`."""
    places = np.unique(_equal_counts(counts, min(MOST_PLACES, len(shapes))))
    if len(shapes) <= MOST_PLACES:
        places = np.arange(len(shapes) + 1)
    run_costs = _costs_of_runs(shapes, counts, places, cost)
    best = np.full(len(places), _NEVER)  # best[j]: least cost of the shapes before place j in the runs so far
    best[0] = 0
    choices: list[Positions] = []
    for _ in range(min(num_segments, len(places) - 1)):
        through = best[:, None] + run_costs  # (from, to)
        choice = through.argmin(axis=0)
        now = through[choice, np.arange(len(places))]
        choice[now >= best] = -1  # no further run if it saves nothing
        best = np.minimum(best, now)
        choices.append(choice)
    ends: list[int] = []
    place = len(places) - 1
    for choice in reversed(choices):
        if choice[place] >= 0:
            ends.append(int(places[place]))
            place = int(choice[place])
    return np.array(ends[::-1], dtype=np.int64), int(best[-1])


def _costs_of_runs(shapes: Sizes, counts: Counts, places: Positions, cost: Cost) -> npt.NDArray[np.float64]:
    """Cost of the run from one place to another, (places, places); `_NEVER` if it would go backwards."""
    tops = np.maximum.reduceat(shapes, places[:-1], axis=0)
    numbers = np.add.reduceat(counts, places[:-1])
    costs = np.full((len(places), len(places)), _NEVER)
    for start in range(len(tops)):
        costs[start, start + 1 :] = _costs_of_prefixes(tops[start:], numbers[start:], cost)[1:]
    return costs


def _equal_counts(counts: Counts, num_segments: int) -> Positions:
    """Ends of runs of near-equal count, (num_segments + 1,), from 0 to the number of shapes."""
    before = np.concatenate([[0], np.cumsum(counts)])
    wanted = np.linspace(0, before[-1], num_segments + 1).round().astype(np.int64)
    return np.searchsorted(before, wanted)


def _move(shapes: Sizes, counts: Counts, cuts: Positions, boundary: int, cost: Cost) -> int:
    """Move one boundary to its best place between its neighbors, in place. Returns what that saves."""
    start, end = int(cuts[boundary - 1]), int(cuts[boundary + 1])
    costs = _costs_of_prefixes(shapes[start:end], counts[start:end], cost)
    costs += _costs_of_prefixes(shapes[start:end][::-1], counts[start:end][::-1], cost)[::-1]
    now, best = int(cuts[boundary]) - start, int(costs.argmin())
    saved = int(costs[now] - costs[best])
    if saved > 0:
        cuts[boundary] = start + best
    return saved


def _costs_of_prefixes(shapes: Sizes, counts: Counts, cost: Cost) -> Positions:
    """Cost of a run of the first 0, 1, ..., n shapes, (n + 1,)."""
    canvas_pixels = np.maximum.accumulate(shapes, axis=0).prod(axis=1)
    return np.concatenate([[0], cost(canvas_pixels, np.cumsum(counts))])


def _run_cost(shapes: Sizes, counts: Counts, cost: Cost) -> int:
    return int(_costs_of_prefixes(shapes, counts, cost)[-1])
