"""Micro-batches of enough images each, for norms that learn from the images of a micro-batch.

Along an order of the images the cheapest cut into runs of enough images is found exactly, by dynamic programming. The
orders by height, by width, by pixels and by aspect ratio each give a start. From each, images move to other parts and
change places as long as that saves, and the cheapest result is taken. On steps of 15 images of very different shapes
that is the best there is (docs/experiments.md). At last, parts that the budget has left too small join others where
they fit.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

import numpy as np

from unsquare.plan.epoch import Positions
from unsquare.plan.partition.moves import NEVER, PartCosts, refine


def parts_with_enough(images: Positions, costs: PartCosts) -> list[Positions]:
    """Cut images into parts, each of which becomes one micro-batch of at least `costs.least` images.

    Where the budget holds fewer, parts are as near to that as it allows.

    Args:
        images: positions in the shapes of the images to cut, (n,).
        costs: the cost to minimize, and the budget, a hard bound on every part of several images.
    """
    heights, widths = costs.shapes[images].T
    orders = (images[np.argsort(key, kind="stable")] for key in (heights, widths, heights * widths, heights / widths))
    return min((refine(best_runs(order, costs), costs) for order in orders), key=costs.total)


def best_runs(order: Positions, costs: PartCosts) -> list[Positions]:
    """The cheapest cut of images in this order into runs."""
    num = len(order)
    shapes = costs.shapes[order]
    cheapest = np.zeros(num + 1, dtype=np.int64)  # cost of the first images, in the best runs
    length = np.zeros(num + 1, dtype=np.int64)  # of the last of these runs
    for end in range(1, num + 1):
        count = np.arange(1, end + 1)
        pixels = count * np.maximum.accumulate(shapes[:end][::-1], axis=0).prod(axis=1)  # of the last 1, 2, ... images
        cost = pixels + costs.fixed(count) + cheapest[:end][::-1]
        cost[(pixels > costs.limits.budget_pixels) & (count > 1)] = NEVER
        length[end] = cost.argmin() + 1
        cheapest[end] = cost[length[end] - 1]
    runs, end = [], num
    while end:
        runs.append(order[end - length[end] : end])
        end -= int(length[end])
    return runs


def joined(parts: list[Positions], costs: PartCosts) -> list[Positions]:
    """The parts, of which those with too few images join others, as far as two fit the budget together.

    The smallest comes first, and joins where that costs the fewest pixels.
    """
    parts = list(parts)
    count = np.array([len(part) for part in parts])
    canvas = np.array([costs.shapes[part].max(axis=0) for part in parts])  # (parts, 2)
    waiting = [(int(count[number]), int(number)) for number in np.flatnonzero(count < costs.least)]
    heapify(waiting)
    while waiting:
        images, number = heappop(waiting)
        if count[number] != images:  # it has joined another, or another has joined it
            continue
        pixels = np.maximum(canvas, canvas[number]).prod(axis=1) * (count + images)  # of both together
        price = np.where(
            (count > 0) & (pixels <= costs.limits.budget_pixels), pixels - canvas.prod(axis=1) * count, NEVER
        )
        price[number] = NEVER
        target = int(price.argmin())
        if price[target] == NEVER:
            continue
        parts[target] = np.concatenate([parts[target], parts[number]])
        canvas[target] = np.maximum(canvas[target], canvas[number])
        count[target] += images
        count[number] = 0
        if count[target] < costs.least:
            heappush(waiting, (int(count[target]), target))
    return [part for part, images in zip(parts, count) if images]
