"""A bounded set of canvases for a dataset: the few (height, width) that pad its images least.

Every image is padded to the smallest canvas that holds it. Choosing the best K canvases is facility location with
dominance in place of distance. The search starts from the fewest canvases that hold every image within the budget, adds
one at a time where that saves most, and then moves canvases until no move saves: one side of a canvas to any other
height or width in the data; a whole canvas to any other place; the tallest or widest shapes of one canvas to another,
which grows while the first shrinks.

`savings` prices all places of a move at once. A canvas (h, w) saves `count * (price - h * w)` on each shape that it
holds and that pays more than h * w per image. Along a row of the table of places, a shape begins to save at its own
width and ends where its own height makes the canvas too expensive; down a column, it begins at its height and ends
where the canvas reaches its price. So each shape adds a few numbers along the edge of its region, and running sums fill
in the rest: the whole table costs as much as its places and the lengths of these edges, not places times shapes.

The tree that forms buckets assigns each image to one leaf. Using any canvas that holds the image, and moving canvases,
reduces the padding of MAMe at 16 MP with 64 canvases from 10.6 % to 9.7 %; no 64 canvases can reach less than 9.48 %
(docs/experiments.md).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unsquare.errors import PlanError
from unsquare.plan.config import Counts, Limits
from unsquare.shapes import Shape, Sizes

MOST_CELLS = (2**11, 2**14)
"""Similar shapes are merged until at most this many remain: a quick search among few, then one that starts there."""
FINENESS = 64
"""Candidate sides of whole-canvas moves are about 1/64 apart; 1/128 saves 0.02 % on MAMe in up to 1.8 times the
time."""
LEAST_FALL = 1e-5
"""Relative fall of the cost in one round of moves below which rounds end."""
ROUNDS = 16
"""The most rounds of moves; bounds the time."""

SideLengths = npt.NDArray[np.int64]
"""Distinct heights or widths that a canvas may have, ascending."""
Prices = npt.NDArray[np.float64]
"""Computed pixels per image; whole numbers, so that sums below 2**53 are exact and the same on every machine."""


def choose_canvases(sizes: Sizes, counts: Counts, most: int, limits: Limits, multiple: int = 1) -> Sizes:
    """At most `most` canvases within the budget that hold every shape, chosen to pad little.

    Args:
        sizes: shapes as planned, (U, 2).
        counts: images of each shape, (U,).
        most: the most canvases.
        limits: the budget, which no canvas may exceed except for images that exceed it themselves.
        multiple: every side of a canvas is a multiple of this many pixels.

    Returns:
        Canvases by pixel count and height, ascending, (K, 2), 1 <= K <= most.

    Raises:
        PlanError: a shape rounded up to the multiple exceeds the budget, or `most` canvases within the budget cannot
            hold every shape.
    """
    assert len(sizes) == len(counts) > 0, "a count for each shape"
    assert min(most, multiple) > 0, "bounds are above 0"
    shapes, counts = _distinct(np.asarray(sizes, dtype=np.int64), counts, multiple, limits)
    if len(shapes) <= most:
        return _ordered(shapes)
    canvases = _fewest(shapes, most, limits)
    for most_cells in MOST_CELLS:
        search = _CanvasSearch(*_cells(shapes, counts, most_cells, canvases), canvases, _most_pixels(shapes, limits))
        search.add_to(most)
        search.improve()
        canvases = _tight(shapes, search.canvases)
    return _ordered(canvases)


def cheapest_canvas(sizes: Sizes, canvases: Sizes) -> Counts:
    """The number of the first canvas, in the order given, that holds each shape, (N,); -1 if none does."""
    cheapest = np.full(len(sizes), -1)
    for number in range(len(canvases) - 1, -1, -1):
        cheapest[(sizes[:, 0] <= canvases[number, 0]) & (sizes[:, 1] <= canvases[number, 1])] = number
    return cheapest


class _CanvasSearch:
    """Canvases, with each shape's two cheapest that hold it: the price that it pays, and the next one."""

    def __init__(self, shapes: Sizes, counts: Counts, canvases: Sizes, budget_pixels: int) -> None:
        self.shapes = shapes
        self.counts = counts
        self.budget_pixels = budget_pixels
        self.sides = (np.unique(shapes[:, 0]), np.unique(shapes[:, 1]))
        self.coarse = tuple(sides[_last_of_groups(sides, FINENESS)] for sides in self.sides)
        self.canvases = canvases
        self.first, self.second = np.full((2, len(shapes)), -1)
        self.price, self.next_price = np.full((2, len(shapes)), np.inf)
        self._assign(np.arange(len(shapes)))

    @property
    def cost(self) -> float:
        """Computed pixels of all images."""
        return float((self.counts * self.price).sum())  # not `@`, whose threads spin while they wait for a busy CPU

    def add_to(self, most: int) -> None:
        """Add canvases one at a time, each where it saves most, as long as that saves."""
        table = self._savings(self.coarse, self.price)
        while len(self.canvases) < most:
            place, saved = self._best_place(self.coarse, table, np.zeros(2))
            if saved <= 0:
                return
            before = self.price.copy()
            self.canvases = np.concatenate([self.canvases, [place]])
            self._put(len(self.canvases) - 1, place)
            changed = before != self.price
            table += self._savings(self.coarse, self.price, changed) - self._savings(self.coarse, before, changed)

    def improve(self) -> None:
        """Move single sides and whole canvases, in rounds, until that hardly saves."""
        for _ in range(ROUNDS):
            before = self.cost
            for number in range(len(self.canvases)):
                self._slide(number)
            if before - self.cost <= LEAST_FALL * before and not self._jump_all() and not self._hand_over_all():
                return

    def _slide(self, number: int) -> None:
        """Move one side of a canvas at a time to its best length, with all other canvases fixed."""
        without, least = self._without(number)
        canvas = self.canvases[number].copy()
        best = -1.0
        axis, since = 0, 0
        while since < 2:
            sides = [canvas[:1], canvas[1:]]
            sides[axis] = self.sides[axis]
            place, saved = self._best_place(sides, self._savings(sides, without), least)
            since = since + 1 if saved <= best else 1
            if saved > best:
                canvas, best = place, saved
            axis = 1 - axis
        if (canvas != self.canvases[number]).any():
            self._put(number, canvas)

    def _jump_all(self) -> bool:
        """Move whole canvases, the least needed first, wherever that saves. Returns whether one moved."""
        missed = np.bincount(self.first, self.counts * (self.next_price - self.price), len(self.canvases))
        table = self._savings(self.coarse, self.price)
        any_moved = False
        for number in np.argsort(missed, kind="stable"):
            if self._jump(int(number), table):
                any_moved = True
                table = self._savings(self.coarse, self.price)
        return any_moved

    def _jump(self, number: int, table: Prices) -> bool:
        """Move a canvas to where one more would save most without it; `table` has what one more saves besides it."""
        without, least = self._without(number)
        mine = self.first == number
        loss = float((self.counts * (without - self.price))[mine].sum())
        table = table + self._savings(self.coarse, without, mine) - self._savings(self.coarse, self.price, mine)
        place, saved = self._best_place(self.coarse, table, least)
        if saved - loss <= self.cost * LEAST_FALL:
            return False
        self._put(number, place)
        self._slide(number)
        return True

    def _hand_over_all(self) -> bool:
        """Move the tallest and the widest shapes of each canvas to another, which grows. Returns whether that saved."""
        moved = [self._hand_over(number, axis) for number in range(len(self.canvases)) for axis in (0, 1)]
        return any(moved)

    def _hand_over(self, number: int, axis: int) -> bool:
        """Move them to the canvas whose growth costs least: shapes that no other canvas holds cannot move otherwise."""
        mine = self.first == number
        if not mine.any():
            return False
        mine &= self.shapes[:, axis] == self.shapes[mine, axis].max()
        grown = np.maximum(self.canvases, self.shapes[mine].max(axis=0))
        images = np.bincount(self.first, self.counts, len(self.canvases))
        growth = images * (grown.prod(axis=1) - self.canvases.prod(axis=1))
        growth[(grown.prod(axis=1) > self.budget_pixels) | (np.arange(len(grown)) == number)] = np.inf
        other = int(growth.argmin())
        if np.isinf(growth[other]):
            return False
        before = self.cost
        kept = (self.canvases, self.first, self.second, self.price, self.next_price)
        self.canvases, self.first, self.second, self.price, self.next_price = (array.copy() for array in kept)
        self._put(other, grown[other])
        self._slide(number)
        self._slide(other)
        if before - self.cost > before * LEAST_FALL:
            return True
        self.canvases, self.first, self.second, self.price, self.next_price = kept
        return False

    def _without(self, number: int) -> tuple[Prices, Counts]:
        """What each shape would pay without a canvas, and the minimum sides of any replacement for it.

        Shapes that no other canvas holds pay the price of the largest canvas, so that any replacement saves on them.
        """
        without = np.where(self.first == number, self.next_price, self.price)
        alone = np.isinf(without)
        without[alone] = self.budget_pixels
        return without, self.shapes[alone].max(axis=0, initial=0)

    def _savings(
        self,
        sides: list[SideLengths] | tuple[SideLengths, ...],
        prices: Prices,
        among: npt.NDArray[np.bool_] | None = None,
    ) -> Prices:
        chosen = slice(None) if among is None else among
        return savings(sides[0], sides[1], self.shapes[chosen], self.counts[chosen], prices[chosen])

    def _best_place(
        self, sides: list[SideLengths] | tuple[SideLengths, ...], table: Prices, least: npt.NDArray[np.generic]
    ) -> tuple[Sizes, float]:
        """The place that saves most, and how much, among those within the budget with at least these sides."""
        heights, widths = sides
        allowed = (heights[:, None] * widths <= self.budget_pixels) & (heights >= least[0])[:, None]
        table = np.where(allowed & (widths >= least[1]), table, -1.0)
        row, column = divmod(int(table.argmax()), len(widths))
        return np.array([heights[row], widths[column]]), float(table[row, column])

    def _put(self, number: int, canvas: Sizes) -> None:
        """Put a canvas at a new place and assign the shapes affected by that again."""
        self.canvases[number] = canvas
        holds = (self.shapes[:, 0] <= canvas[0]) & (self.shapes[:, 1] <= canvas[1])
        gains = holds & (float(canvas.prod()) < self.next_price)
        self._assign(np.flatnonzero(gains | (self.first == number) | (self.second == number)))

    def _assign(self, rows: Counts) -> None:
        """Find the two cheapest canvases of these shapes."""
        shapes = self.shapes[rows]
        holds = (shapes[:, :1] <= self.canvases[:, 0]) & (shapes[:, 1:] <= self.canvases[:, 1])
        prices = np.where(holds, self.canvases.prod(axis=1).astype(np.float64), np.inf)  # (rows, K)
        every = np.arange(len(rows))
        for numbers, paid in ((self.first, self.price), (self.second, self.next_price)):
            cheapest = prices.argmin(axis=1)
            numbers[rows], paid[rows] = cheapest, prices[every, cheapest]
            prices[every, cheapest] = np.inf


def _distinct(sizes: Sizes, counts: Counts, multiple: int, limits: Limits) -> tuple[Sizes, Counts]:
    """Distinct shapes with sides rounded up to the multiple, and their counts."""
    shapes, number = np.unique(-(-sizes // multiple) * multiple, axis=0, return_inverse=True)
    pixels = shapes.prod(axis=1)
    if pixels.max() > limits.largest_pixels:
        largest = Shape(*shapes[pixels.argmax()].tolist())
        raise PlanError(
            f"Each image must fit a canvas whose sides are multiples of {multiple} within the budget of "
            f"{limits.largest_pixels:,} pixels, but one needs {largest} = {largest.pixels:,}; raise the budget, choose "
            "a smaller multiple, or shrink large images with --max-pixels."
        )
    return shapes, np.bincount(number.ravel(), counts).astype(np.int64)


def _cells(shapes: Sizes, counts: Counts, most_cells: int, canvases: Sizes) -> tuple[Sizes, Counts]:
    """Few enough shapes to search among: similar ones become one with their largest sides, if a canvas holds it."""
    fineness = 16 * FINENESS
    cells, in_cells = shapes, counts
    while len(cells) > most_cells and fineness >= FINENESS // 2:
        corner = np.stack([_rounded_up(side, fineness) for side in shapes.T], axis=1)
        corner = np.where(cheapest_canvas(corner, canvases)[:, None] >= 0, corner, shapes)
        cells, number = np.unique(corner, axis=0, return_inverse=True)
        in_cells = np.bincount(number.ravel(), counts).astype(np.int64)
        fineness //= 2
    return cells, in_cells


def _rounded_up(sides: Counts, fineness: int) -> Counts:
    """Each side as the largest in the data of its group of similar sides."""
    distinct, number = np.unique(sides, return_inverse=True)
    last = _last_of_groups(distinct, fineness)
    return distinct[last[np.searchsorted(last, number.ravel())]]


def _last_of_groups(sides: SideLengths, fineness: int) -> Counts:
    """Last position of each run of sides that differ by at most 1/fineness; integers, so the same on every machine."""
    ends = []
    start = 0
    while start < len(sides):
        start = int(np.searchsorted(sides, sides[start] + sides[start] // fineness, side="right"))
        ends.append(start - 1)
    return np.array(ends)


def _fewest(shapes: Sizes, most: int, limits: Limits) -> Sizes:
    """The fewest canvases within the budget that hold every shape.

    Only shapes that fit in no other matter. With rising height their widths fall, so a canvas that holds two of them
    holds all between, and it is best to take as many as the budget allows each time.
    """
    by_height = shapes[np.lexsort((shapes[:, 1], shapes[:, 0]))]
    widest_above = np.maximum.accumulate(by_height[::-1, 1])[::-1]
    front = by_height[by_height[:, 1] > np.append(widest_above[1:], 0)]
    canvases = []
    start = 0
    most_pixels = _most_pixels(shapes, limits)
    while start < len(front):
        width = int(front[start, 1])
        end = int(np.searchsorted(front[:, 0], most_pixels // width, side="right"))
        canvases.append((int(front[end - 1, 0]), width))
        start = end
    if len(canvases) > most:
        raise PlanError(
            f"Every image must fit one of {most} canvases of at most {most_pixels:,} pixels, but that takes "
            f"{len(canvases)}; allow as many with --canvases, raise the budget, or shrink large images with "
            "--max-pixels."
        )
    return np.array(canvases)


def _most_pixels(shapes: Sizes, limits: Limits) -> int:
    """The most pixels of a canvas: the budget, or the largest image where that needs a fallback."""
    return max(limits.budget_pixels, int(shapes.prod(axis=1).max()))


def _tight(shapes: Sizes, canvases: Sizes) -> Sizes:
    """The canvases shrunk to the largest sides of the shapes that use them, without unused ones."""
    taken = cheapest_canvas(shapes, _ordered(canvases))
    return np.array([shapes[taken == number].max(axis=0) for number in np.unique(taken)])


def _ordered(canvases: Sizes) -> Sizes:
    """By pixel count, then height."""
    return canvases[np.lexsort((canvases[:, 0], canvases.prod(axis=1)))]


def savings(heights: SideLengths, widths: SideLengths, shapes: Sizes, counts: Counts, prices: Prices) -> Prices:
    """Pixels that one more canvas of each height and width would save if every image used it where it is cheaper.

    Args:
        heights: candidate heights, (A,).
        widths: candidate widths, (B,).
        shapes: distinct shapes, (U, 2).
        counts: images of each shape, (U,).
        prices: pixels that an image of each shape costs now, (U,).

    Returns:
        Pixels saved at each height and width, (A, B), at least 0.
    """
    if len(widths) > len(heights):  # edges run along the widths, which should be the shorter side of the table
        return savings(widths, heights, shapes[:, ::-1], counts, prices).T
    height, width = np.maximum(shapes, [heights[0], widths[0]]).T
    may = np.flatnonzero((height <= heights[-1]) & (width <= widths[-1]) & (height * width < prices))
    number, price = counts[may].astype(np.float64), prices[may]
    top, left = np.searchsorted(heights, height[may]), np.searchsorted(widths, width[may])
    right = np.maximum(np.searchsorted(widths, price / heights[top]), left)
    # Every place of every shape's lower edge: (number of the shape, column), and the row below its region.
    lengths = right - left
    shape = np.repeat(np.arange(len(may)), lengths)
    column = np.arange(len(shape)) + np.repeat(left - np.cumsum(lengths) + lengths, lengths)
    end = np.minimum(np.ceil(price[shape] / widths[column]), heights[-1] + 1).astype(np.int64)
    bottom = np.cumsum(np.bincount(heights + 1))[end]  # heights below `end`
    stride = len(widths) + 1
    length = (len(heights) + 1) * stride

    def filled(weights: Prices) -> Prices:
        table = np.bincount(top * stride + left, weights, length) - np.bincount(top * stride + right, weights, length)
        rows = np.cumsum(table.reshape(-1, stride), axis=1)
        rows -= np.bincount(bottom * stride + column, weights[shape], length).reshape(-1, stride)
        return np.cumsum(rows, axis=0, out=rows)[:-1, :-1]

    return filled(number * price) - filled(number) * (heights[:, None] * widths)
