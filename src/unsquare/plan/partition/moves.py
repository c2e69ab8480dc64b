"""Changes of single images between micro-batches, as long as they save.

Each round prices every move of one image at once, an (n, parts) table, and where micro-batches must have enough images
every swap of two as well, an (n, n) table. The best changes that touch different parts are made, so that their savings
add up. The total falls with every round, until no change saves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from unsquare.plan.config import Counts, Limits
from unsquare.plan.epoch import Positions
from unsquare.shapes import Sizes

ROUNDS = 32
"""The most rounds of changes. MAMe takes 3 to 8."""
SWAPPED_IMAGES = 1024
"""Images among which swaps are priced; more only move."""
NEVER = np.int64(2**60)
"""The price of a change that the budget forbids; two of them still make an int64."""
_MOST_MISSING = 2**58


@dataclass(frozen=True)
class PartCosts:
    """What micro-batches of some shapes cost: computed pixels, a launch each, and images fewer than enough."""

    shapes: Sizes
    """(n, 2)"""
    limits: Limits
    least: int = 1
    """Enough images."""

    @cached_property
    def missing(self) -> int:
        """The cost of an image fewer than enough: more than all that its lack could save, if sums fit an int64."""
        num = len(self.shapes)
        most = num * (int(self.shapes.max(axis=0).prod()) + self.limits.launch_pixels)
        return min(most, _MOST_MISSING // (num * self.least))

    def fixed(self, count: Counts) -> Counts:
        """What parts of so many images cost besides their pixels, elementwise; nothing if they are empty."""
        cost = self.limits.launch_pixels + self.missing * np.maximum(self.least - count, 0)
        return np.where(count > 0, cost, 0)

    def total(self, parts: list[Positions]) -> int:
        """The cost of all parts."""
        count = np.array([len(part) for part in parts])
        canvas = np.array([self.shapes[part].max(axis=0) for part in parts])
        return int((canvas.prod(axis=1) * count + self.fixed(count)).sum())


def refine(parts: list[Positions], costs: PartCosts) -> list[Positions]:
    """The parts after images have changed their parts as long as that saves; parts that become empty are dropped.

    Args:
        parts: positions in the shapes, each part within the budget.
        costs: the cost to minimize, and the budget, a hard bound on every part.
    """
    if len(parts) < 2:
        return parts
    images = np.concatenate(parts)
    part_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    swaps = costs.least > 1 and len(images) <= SWAPPED_IMAGES
    for _ in range(ROUNDS):
        now = _Assignment.of(costs, images, part_of, len(parts))
        changes = [now.moves(), *([now.swaps()] if swaps else [])]
        if not _make(part_of, changes):
            break
    return [images[part_of == part] for part in range(len(parts)) if (part_of == part).any()]


@dataclass(frozen=True)
class _Changes:
    """A change for each image, which goes to another part."""

    target: Positions
    """The part that each image goes to, (n,)."""
    saving: Counts
    """What that saves, (n,)."""
    partner: Positions | None = None
    """The image that comes in its place, (n,); None if none does."""


@dataclass(frozen=True)
class _Assignment:
    """Images in parts: what a change is priced from."""

    costs: PartCosts
    heights: Counts
    """Of each image, (n,); so are the widths, the parts, and the maxima without the image."""
    widths: Counts
    part_of: Positions
    height_without: Counts
    """The largest height of the image's part without the image."""
    width_without: Counts
    count: Counts
    """Images of each part, (parts,)."""
    height: Counts
    """Of the canvas of each part, (parts,); so is the width."""
    width: Counts

    @classmethod
    def of(cls, costs: PartCosts, images: Positions, part_of: Positions, num_parts: int) -> _Assignment:
        """Of these images, (n,), in these parts, (n,)."""
        heights, widths = costs.shapes[images].T
        height, height_without = _maxima(heights, part_of, num_parts)
        width, width_without = _maxima(widths, part_of, num_parts)
        count = np.bincount(part_of, minlength=num_parts)
        return cls(costs, heights, widths, part_of, height_without, width_without, count, height, width)

    @property
    def pixels(self) -> Counts:
        """Computed pixels of each part."""
        return self.count * self.height * self.width

    def moves(self) -> _Changes:
        """The best other part for each image, and what moving there saves."""
        pixels, fixed = self.pixels, self.costs.fixed(self.count)
        left = self.count[self.part_of] - 1
        gain = (pixels + fixed)[self.part_of] - (
            left * self.height_without * self.width_without + self.costs.fixed(left)
        )
        joined = np.maximum(self.height, self.heights[:, None]) * np.maximum(self.width, self.widths[:, None])
        joined *= self.count + 1  # (n, parts)
        price = joined - pixels + self.costs.fixed(self.count + 1) - fixed
        price[(joined > self.costs.limits.budget_pixels) | (self.count == 0)] = NEVER
        rows = np.arange(len(self.part_of))
        price[rows, self.part_of] = NEVER
        target = price.argmin(axis=1)
        return _Changes(target, gain - price[rows, target])

    def swaps(self) -> _Changes:
        """The best image for each to change places with, and what that saves."""
        pixels = self.pixels[self.part_of]
        # Pixels of the part of the image in a row, with the image in a column in its place, (n, n).
        replaced = np.maximum(self.height_without[:, None], self.heights)
        replaced *= np.maximum(self.width_without[:, None], self.widths)
        replaced *= self.count[self.part_of][:, None]
        replaced[replaced > self.costs.limits.budget_pixels] = NEVER
        change = replaced + replaced.T - (pixels[:, None] + pixels)
        change[self.part_of[:, None] == self.part_of] = NEVER
        partner = change.argmin(axis=1)
        return _Changes(self.part_of[partner], -change[np.arange(len(partner)), partner], partner)


def _make(part_of: Positions, changes: list[_Changes]) -> bool:
    """Make the best changes that touch different parts, in place. Returns whether there was one."""
    touched: set[int] = set()
    saving = np.concatenate([each.saving for each in changes])
    for number in np.argsort(-saving, kind="stable")[: int((saving > 0).sum())]:
        kind, image = divmod(int(number), len(part_of))
        change = changes[kind]
        ends = {int(part_of[image]), int(change.target[image])}
        if touched.isdisjoint(ends):
            touched |= ends
            if change.partner is not None:
                part_of[change.partner[image]] = part_of[image]
            part_of[image] = change.target[image]
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
