"""Buckets with too few images for one step join others: no step of one image where it has neighbours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unsquare.plan.canvases import cheapest_canvas
from unsquare.plan.config import Counts, Limits
from unsquare.plan.epoch import Bucket, Positions
from unsquare.shapes import Shape, Sizes


def merge_small(
    shapes: Sizes,
    counts: Counts,
    groups: list[tuple[int, Positions]],
    limits: Limits,
    least: Callable[[Counts], Counts] | None = None,
    canvases: Sizes | None = None,
) -> list[tuple[int, Positions]]:
    """The groups after each with too few images has joined the one where that costs least.

    A group joins none where each joint canvas would exceed the budget, or is none of those allowed.

    Args:
        shapes: distinct shapes, (U, 2).
        counts: how many images have each of them, (U,).
        groups: number of the superbucket and positions in `shapes` of each bucket.
        limits: budget, launch and world size.
        least: the fewest images of a group on canvases of so many pixels; None takes `Limits.enough`.
        canvases: the only canvases allowed, (K, 2), by ascending pixels; None makes each tight.
    """
    groups = list(groups)
    least = least or limits.enough
    canvas = np.array([shapes[part].max(axis=0) for _, part in groups])  # (K, 2)
    number = np.array([counts[part].sum() for _, part in groups])
    stuck = np.zeros(len(groups), dtype=bool)
    while True:
        small = ~stuck & (number < least(canvas.prod(axis=1)))
        if not small.any() or len(groups) == 1:
            return groups
        smallest = int(np.where(small, number, np.iinfo(np.int64).max).argmin())
        joint = np.maximum(canvas, canvas[smallest])
        allowed = joint.prod(axis=1) <= limits.budget_pixels
        if canvases is not None:
            held_by = cheapest_canvas(joint, canvases)
            allowed = held_by >= 0
            joint = canvases[held_by]
        total = number + number[smallest]
        added = limits.step_cost(joint.prod(axis=1), total) - limits.step_cost(canvas.prod(axis=1), number)
        allowed[smallest] = False
        if not allowed.any():
            stuck[smallest] = True
            continue
        into = int(np.where(allowed, added, np.iinfo(np.int64).max).argmin())
        superbucket = max(groups[into][0], groups[smallest][0])
        groups[into] = (superbucket, np.concatenate([groups[into][1], groups[smallest][1]]))
        canvas[into] = joint[into]
        number[into] = total[into]
        stuck[into] = False
        del groups[smallest]
        canvas, number, stuck = (np.delete(each, smallest, axis=0) for each in (canvas, number, stuck))


def merge_for_epoch(buckets: tuple[Bucket, ...], limits: Limits, canvases: Sizes | None) -> tuple[Bucket, ...]:
    """The buckets of one epoch, where turns or weights left some with less than two images a rank for a step."""

    def least(canvas_pixels: Counts) -> Counts:
        return limits.world_size * np.minimum(limits.capacity(canvas_pixels), 2)

    bounds = np.array([bucket.canvas for bucket in buckets])
    counts = np.array([len(bucket.images) for bucket in buckets])
    alone = [(bucket.superbucket, np.array([number])) for number, bucket in enumerate(buckets)]
    groups = merge_small(bounds, counts, alone, limits, least, canvases)
    return tuple(_joined([buckets[i] for i in members], superbucket, canvases) for superbucket, members in groups)


def _joined(buckets: list[Bucket], superbucket: int, canvases: Sizes | None) -> Bucket:
    if len(buckets) == 1:
        return buckets[0]
    bound = np.array([bucket.canvas for bucket in buckets]).max(axis=0)
    if canvases is not None:
        bound = canvases[cheapest_canvas(bound[None], canvases)[0]]
    images = np.sort(np.concatenate([bucket.images for bucket in buckets]))
    return Bucket(images=images, canvas=Shape(int(bound[0]), int(bound[1])), superbucket=superbucket)


def without_small(shapes: Sizes, counts: Counts, canvases: Sizes, least: Callable[[Counts], Counts]) -> Sizes:
    """The canvases, (K, 2), without those that too few images (fewer than `least`) take and others hold as well."""
    while len(canvases) > 1:
        cheapest = cheapest_canvas(shapes, canvases)
        number = np.bincount(cheapest, counts, minlength=len(canvases))
        for small in np.argsort(number, kind="stable"):
            others = np.delete(canvases, small, axis=0)
            too_few = number[small] < least(canvases[small].prod())
            if too_few and (cheapest_canvas(shapes[cheapest == small], others) >= 0).all():
                canvases = others
                break
        else:
            break
    return canvases
