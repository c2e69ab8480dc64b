"""The distinct shapes of a dataset with counts: a hundred million images have few shapes that differ enough to matter.

If there are more distinct shapes than boundaries can use, sides are rounded up to fewer and fewer binary digits. A cell
of shapes that become equal is represented by the largest height and width that occur in it, so that what is decided for
the cell holds for each of its images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from unsquare.plan.config import Counts
from unsquare.plan.draw import CHUNK
from unsquare.plan.epoch import Positions
from unsquare.shapes import Sizes

MOST_SHAPES = 1 << 18
"""The most distinct shapes. The British Library's 396,261, rounded to 9 digits, pad 2.06 instead of 2.04 %."""
EXACT_DIGITS = 31
"""Digits of a side with which rounding changes nothing: no side has more."""

Keys = npt.NDArray[np.int64]


@final
@dataclass(frozen=True, eq=False)
class DistinctShapes:
    """Distinct shapes, or cells of them, with the number of images of each."""

    shapes: Sizes
    """(U, 2), ordered by height, then width."""
    counts: Counts
    """(U,)"""
    digits: int
    """Leading binary digits of a side by which shapes are distinguished."""
    orientations: int
    """How many times each image counts: 2 if it counts upright and on its side."""
    keys: Keys
    """(U,), ascending; `number_of` looks shapes up here."""

    @classmethod
    def of(cls, sizes: npt.NDArray[np.integer], *, turns: bool = False, most: int = MOST_SHAPES) -> DistinctShapes:
        """The distinct shapes of these, (N, 2); with `turns`, each image counts upright and on its side.

        There are at most `most`, unless sides rounded up to powers of two still give more.
        """
        digits, keys = EXACT_DIGITS, np.empty(0, dtype=np.int64)
        counts, tops = np.empty(0, dtype=np.int64), np.empty((0, 2), dtype=np.int64)
        for start in range(0, len(sizes), CHUNK):
            shapes = np.asarray(sizes[start : start + CHUNK], dtype=np.int64)
            if turns:
                shapes = np.concatenate([shapes, shapes[:, ::-1]])
            # Whole shapes first: sorting numbers alone is several times faster than with their positions.
            packed, number = np.unique(_packed(shapes), return_counts=True)
            tops = np.concatenate([tops, _unpacked(packed)])
            keys = np.concatenate([keys, _keys(_unpacked(packed), digits)])
            counts = np.concatenate([counts, number])
            keys, counts, tops = _joined(keys, counts, tops)
            while len(keys) > most and digits > 1:
                digits = min(digits, _digits(tops)) - 1
                keys, counts, tops = _joined(_keys(tops, digits), counts, tops)
        return cls(shapes=tops, counts=counts, digits=digits, orientations=1 + turns, keys=keys)

    def number_of(self, shapes: Sizes) -> Positions:
        """The number of each of these shapes among the distinct ones, (n,); they must be among those counted."""
        return np.searchsorted(self.keys, _keys(shapes, self.digits))


def _joined(keys: Keys, counts: Counts, tops: Sizes) -> tuple[Keys, Counts, Sizes]:
    """One entry for each distinct key: the sum of its counts, and its largest height and width."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[starts], np.add.reduceat(counts[order], starts), np.maximum.reduceat(tops[order], starts, axis=0)


def _keys(shapes: Sizes, digits: int) -> Keys:
    return _packed(_rounded(shapes, digits))


def _rounded(sides: Sizes, digits: int) -> Sizes:
    """Sides rounded up to `digits` leading binary digits."""
    if digits >= EXACT_DIGITS:
        return sides
    spare = np.maximum(np.frexp(sides.astype(np.float64))[1] - digits, 0)
    return ((sides + (1 << spare) - 1) >> spare) << spare


def _digits(sides: Sizes) -> int:
    return int(sides.max()).bit_length()


def _packed(shapes: Sizes) -> Keys:
    return (shapes[:, 0] << 32) | shapes[:, 1]


def _unpacked(keys: Keys) -> Sizes:
    return np.stack([keys >> 32, keys & 0xFFFFFFFF], axis=1)
