"""Partition of a set of images into micro-batches whose canvases come from a given set.

Every image starts on its cheapest canvas. Then, as long as that saves, the canvas whose last micro-batch costs least to
dissolve gives it up: its images beyond full micro-batches move to the next cheapest canvases in use. Two canvases in
use join on a third where that is cheaper. Last, single images move. A canvas pays for its pixels and for one launch per
micro-batch, so every comparison is of the true cost.

The best assignment cannot be computed in reasonable time (capacitated facility location); docs/experiments.md measures
how near this comes.
"""

from __future__ import annotations

import numpy as np

from unsquare.plan.config import Counts, Limits
from unsquare.plan.epoch import Positions
from unsquare.shapes import Shape, Sizes

BLOCK_IMAGES = 4096
"""Larger sets are cut into blocks in the order of their cheapest canvases, which bounds the time per image."""
NEVER = np.int64(2**61)
"""The price of a canvas that does not hold the image; such prices are never summed."""


def partition_on_canvases(
    sizes: Sizes, images: Positions, canvases: Sizes, limits: Limits
) -> list[tuple[Positions, Shape]]:
    """Cut `images` into parts, each of which becomes one micro-batch. Returns each part with its canvas.

    Args:
        sizes: all planned shapes, (N, 2), each held by a canvas.
        images: positions in `sizes` of the images to partition, (n,).
        canvases: the canvases allowed, (K, 2), each within the budget.
        limits: the cost to minimize, and the budget, a hard bound on every part.
    """
    canvases = canvases[np.lexsort((canvases[:, 0], canvases.prod(axis=1)))]
    costs = _CanvasCosts(canvases.prod(axis=1), limits)
    prices = np.where((sizes[images][:, None] <= canvases).all(axis=2), costs.pixels, NEVER)  # (n, K)
    cheapest = prices.argmin(axis=1)
    assert (prices.min(axis=1, initial=0) < NEVER).all(), "a canvas holds each image"
    order = np.argsort(cheapest, kind="stable")
    parts: list[tuple[Positions, Shape]] = []
    for start in range(0, len(order), BLOCK_IMAGES):
        block = order[start : start + BLOCK_IMAGES]
        canvas_of = costs.assign(prices[block], cheapest[block])
        for group in costs.micro_batches(canvas_of):
            fitting = int((prices[block[group]].max(axis=0) < NEVER).argmax())  # the cheapest that holds them all
            parts.append((images[block[group]], Shape(*canvases[fitting].tolist())))
    return parts


class _CanvasCosts:
    """Costs of canvases: pixels of each image, and one launch for each micro-batch that the budget requires."""

    def __init__(self, pixels: Counts, limits: Limits) -> None:
        assert pixels.max() <= limits.largest_pixels, "canvases are within the budget"
        self.pixels = limits.priced(pixels)  # (K,)
        self.capacity = limits.capacity(pixels)  # (K,) images of a full micro-batch
        self.launch = limits.launch_pixels

    def assign(self, prices: Counts, canvas_of: Counts) -> Counts:
        """The canvas of each image, (n,), starting from `canvas_of`; every move saves."""
        canvas_of = canvas_of.copy()
        # Each move lowers a cost of whole pixels, so this ends, after few rounds.
        while self._shed(prices, canvas_of) or self._join(prices, canvas_of) or self._move(prices, canvas_of):
            pass
        return canvas_of

    def micro_batches(self, canvas_of: Counts) -> list[Positions]:
        """Near-equal groups of the images of each canvas, each within the budget."""
        groups: list[Positions] = []
        for canvas in np.unique(canvas_of):
            images = np.flatnonzero(canvas_of == canvas)
            groups += np.array_split(images, -(-len(images) // self.capacity[canvas]))
        return groups

    def _launches(self, counts: Counts) -> Counts:
        """Micro-batches of each canvas with these counts, (..., K)."""
        return -(-counts // self.capacity)

    def _shed(self, prices: Counts, canvas_of: Counts) -> bool:
        """Dissolve the one micro-batch whose images cost least elsewhere, in place. Returns whether that saved."""
        num = len(self.pixels)
        counts = np.bincount(canvas_of, minlength=num)
        elsewhere = np.where(counts > 0, prices, NEVER)
        every = np.arange(len(canvas_of))
        elsewhere[every, canvas_of] = NEVER
        target = elsewhere.argmin(axis=1)
        extra = elsewhere[every, target] - prices[every, canvas_of]
        order = np.lexsort((extra, canvas_of))
        rank = np.empty_like(order)
        rank[order] = every - (np.cumsum(counts) - counts)[canvas_of[order]]
        above = counts - self.capacity * np.maximum(self._launches(counts) - 1, 0)  # images of the last micro-batch
        leaving = rank < above[canvas_of]
        stuck = np.bincount(canvas_of[leaving & (extra >= NEVER // 2)], minlength=num) > 0
        leaving &= ~stuck[canvas_of]
        arrivals = np.bincount(canvas_of[leaving] * num + target[leaving], minlength=num * num).reshape(num, num)
        pixels = np.zeros(num, dtype=np.int64)
        np.add.at(pixels, canvas_of[leaving], extra[leaving])
        launches = (self._launches(counts + arrivals) - self._launches(counts)).sum(axis=1) - 1
        change = np.where((counts > 0) & ~stuck, pixels + self.launch * launches, 0)
        least = int(change.argmin())
        if change[least] >= 0:
            return False
        moved = leaving & (canvas_of == least)
        canvas_of[moved] = target[moved]
        return True

    def _join(self, prices: Counts, canvas_of: Counts) -> bool:
        """Move all images of two canvases to the cheapest that holds them, in place. Returns whether that saved."""
        counts = np.bincount(canvas_of, minlength=len(self.pixels))
        used = np.flatnonzero(counts)
        held = np.stack([prices[canvas_of == canvas].max(axis=0) < NEVER for canvas in used])  # (m, K)
        both = held[:, None] & held  # (m, m, K)
        target = both.argmax(axis=2)
        joined = counts[used][:, None] + counts[used]
        cost = self.pixels * counts + self.launch * self._launches(counts)
        there = np.where((used[:, None] == target) | (used == target), 0, counts[target])  # images already there
        after = joined * self.pixels[target] + self.launch * (
            -(-(joined + there) // self.capacity[target]) + (-there // self.capacity[target])
        )
        change = np.where(both.any(axis=2), after - cost[used][:, None] - cost[used], 0)
        np.fill_diagonal(change, 0)
        one, other = divmod(int(change.argmin()), len(used))
        if change[one, other] >= 0:
            return False
        canvas_of[(canvas_of == used[one]) | (canvas_of == used[other])] = target[one, other]
        return True

    def _move(self, prices: Counts, canvas_of: Counts) -> bool:
        """Make the best move of a single image to any canvas, in place. Returns whether that saved."""
        counts = np.bincount(canvas_of, minlength=len(self.pixels))
        now = self._launches(counts)
        enter = self.launch * (self._launches(counts + 1) - now)
        leave = self.launch * (self._launches(counts - 1) - now)
        every = np.arange(len(canvas_of))
        change = prices + enter
        change[every, canvas_of] = NEVER
        change += (leave[canvas_of] - prices[every, canvas_of])[:, None]
        image, target = divmod(int(change.argmin()), len(self.pixels))
        if change[image, target] >= 0:
            return False
        canvas_of[image] = target
        return True
