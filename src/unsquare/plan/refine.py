"""Local search over a partition: single images move to where they cost least.

Each round prices every move of one image to another part at once, an (n, parts) table, and makes the best
moves that touch different parts, so that their savings add up. The total falls with every round; it ends at a
partition that no single move betters.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unsquare.plan.config import Limits
from unsquare.plan.epoch import Positions
from unsquare.shapes import Sizes

ROUNDS = 32
"""MAMe takes 3 to 8; the bound is for the sake of a bound."""
NEVER = np.int64(2**61)
"""The price of a move that the budget forbids."""

Table = npt.NDArray[np.int64]


def refine(sizes: Sizes, parts: list[Positions], limits: Limits) -> list[Positions]:
    """The parts after moving single images while that saves; parts that become empty are gone.

    Args:
        sizes: all planned shapes, (N, 2).
        parts: positions in `sizes`, each part within the budget.
        limits: the cost to be made small, and the budget, a hard bound on every part.
    """
    if len(parts) < 2:
        return parts
    images = np.concatenate(parts)
    part_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    for _ in range(ROUNDS):
        target, saving = _best_moves(sizes[images], part_of, len(parts), limits)
        if not _move(part_of, target, saving):
            break
    return [images[part_of == part] for part in range(len(parts)) if (part_of == part).any()]


def _best_moves(shapes: Sizes, part_of: Positions, num_parts: int, limits: Limits) -> tuple[Positions, Table]:
    """The best other part for each image, (n,), and what going there saves, (n,)."""
    count = np.bincount(part_of, minlength=num_parts)  # (parts,)
    height, height_without = _maxima(shapes[:, 0], part_of, num_parts)
    width, width_without = _maxima(shapes[:, 1], part_of, num_parts)
    pixels = count * height * width
    left = (count[part_of] - 1) * height_without * width_without
    gain = pixels[part_of] - left + limits.launch_pixels * (count[part_of] == 1)
    joined = np.maximum(height, shapes[:, :1]) * np.maximum(width, shapes[:, 1:]) * (count + 1)  # (n, parts)
    price = np.where((joined <= limits.budget_pixels) & (count > 0), joined - pixels, NEVER)
    rows = np.arange(len(shapes))
    price[rows, part_of] = NEVER
    target = price.argmin(axis=1)
    return target, gain - price[rows, target]


def _move(part_of: Positions, target: Positions, saving: Table) -> bool:
    """Make the best moves that touch different parts, in place; whether there was one."""
    touched: set[int] = set()
    for image in np.argsort(-saving, kind="stable")[: int((saving > 0).sum())]:
        ends = {int(part_of[image]), int(target[image])}
        if touched.isdisjoint(ends):
            touched |= ends
            part_of[image] = target[image]
    return bool(touched)


def _maxima(lengths: Table, part_of: Positions, num_parts: int) -> tuple[Table, Table]:
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
