"""Micro-batches of a step spread over ranks at near-equal cost.

Ranks wait for each other once per step, so a step takes as long as its costliest rank. Longest-first assignment (Graham
1969) is near-equal when there are many micro-batches; where one is large compared with a rank's share, part of it moves
to the least busy rank at the price of one more launch.
"""

from __future__ import annotations

import numpy as np

from unsquare.plan.config import Limits
from unsquare.plan.epoch import MicroBatch, Positions, micro_batches_of
from unsquare.shapes import Sizes

TOLERANCE = 1.05
"""Cost of the busiest rank / mean of ranks up to which nothing is split: the launch would cost as much as the wait."""


def spread(
    sizes: Sizes, parts: list[Positions], limits: Limits, canvases: Sizes | None = None, *, least: int = 1
) -> tuple[tuple[MicroBatch, ...], ...]:
    """The micro-batches of each rank, largest first.

    Parts are split if there are fewer of them than ranks, or to even out the ranks; the set of images stays the same.
    A rank gets nothing only if there are fewer images than ranks.

    Args:
        sizes: planned shapes, (N, 2).
        parts: positions in `sizes`, each part within the budget.
        limits: costs and number of ranks.
        canvases: the only canvases allowed, (K, 2), by ascending pixels; None makes each tight.
        least: parts are not cut below this many images, unless a rank would get none.
    """
    micro_batches = micro_batches_of(sizes, parts, canvases)
    while len(micro_batches) < limits.world_size and any(len(item.images) > 1 for item in micro_batches):
        largest = max((item for item in micro_batches if len(item.images) > 1), key=lambda item: item.computed_pixels)
        micro_batches.remove(largest)
        micro_batches += _cut(sizes, largest, len(largest.images) // 2, canvases)
    ranks = _longest_first(micro_batches, limits)
    while _even_out(sizes, ranks, limits, canvases, least):
        pass
    return tuple(tuple(sorted(rank, key=lambda item: -item.computed_pixels)) for rank in ranks)


def rank_cost(micro_batches: tuple[MicroBatch, ...] | list[MicroBatch], limits: Limits) -> int:
    """The cost of one rank: computed pixels at their price, and launches, as pixels."""
    return sum(_cost(item, limits) for item in micro_batches)


def _cost(item: MicroBatch, limits: Limits) -> int:
    pixels = item.computed_pixels
    return (pixels if pixels <= limits.budget_pixels else int(limits.priced(np.array(pixels)))) + limits.launch_pixels


def _longest_first(micro_batches: list[MicroBatch], limits: Limits) -> list[list[MicroBatch]]:
    ranks: list[list[MicroBatch]] = [[] for _ in range(limits.world_size)]
    costs = [0] * limits.world_size
    for item in sorted(micro_batches, key=lambda item: -item.computed_pixels):
        least = costs.index(min(costs))
        ranks[least].append(item)
        costs[least] += _cost(item, limits)
    return ranks


def _even_out(
    sizes: Sizes, ranks: list[list[MicroBatch]], limits: Limits, canvases: Sizes | None, least_images: int
) -> bool:
    """Move part of a micro-batch from the busiest rank to the least busy, if that helps. Returns whether it did."""
    costs = [rank_cost(rank, limits) for rank in ranks]
    busiest, least = int(np.argmax(costs)), int(np.argmin(costs))
    if costs[busiest] * len(ranks) <= TOLERANCE * sum(costs):
        return False
    wanted = (costs[busiest] - costs[least] - limits.launch_pixels) // 2
    for item in sorted(ranks[busiest], key=lambda item: -item.computed_pixels):
        moved = min(len(item.images) - least_images, max(wanted // item.canvas.pixels, least_images))
        if moved < least_images:
            continue
        kept, given = _cut(sizes, item, len(item.images) - moved, canvases)
        if costs[least] + _cost(given, limits) < costs[busiest]:
            ranks[busiest].remove(item)
            ranks[busiest].append(kept)
            ranks[least].append(given)
            return True
    return False


def _cut(sizes: Sizes, micro_batch: MicroBatch, num_kept: int, canvases: Sizes | None) -> list[MicroBatch]:
    """Two micro-batches of the images sorted by pixels, the first with the `num_kept` smallest."""
    images = micro_batch.images[np.argsort(sizes[micro_batch.images].prod(axis=1), kind="stable")]
    return micro_batches_of(sizes, (images[:num_kept], images[num_kept:]), canvases)
