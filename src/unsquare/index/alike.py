"""Finds pictures that look the same among fingerprints of 256 bits: pairs that differ in few of them.

Of the bits that may differ, at most half may be among the 64 of the lowest frequencies, which compression and resizing
hardly touch. All pairs are compared by these first, which leaves few of them: 4 s for 40,000 pictures, in blocks of
bounded memory. A BK-tree prunes nothing at such distances, and tables of bit patterns (multi-index hashing) need
patterns of 8 bits there, which thousands of pictures share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
import numpy.typing as npt

from unsquare.index.remarks import counted, remark
from unsquare.index.table import Remark, ShapeIndex
from unsquare.index.text import Strings
from unsquare.index.units import rows_by_group, units_of

Fingerprints = npt.NDArray[np.uint64]
"""(N, 4): 256 bits of each picture, those of the lowest frequencies first."""
BITS = 256
MOST_PAIRS = 100_000
"""Most pairs that are kept, the first ones found."""
_BLOCK = 1 << 20
"""Comparisons at a time; 16 MB."""


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """Two pictures of an index that look the same.

    Example:
        >>> from PIL import Image
        >>> fractal = Image.effect_mandelbrot((240, 180), (-2, -1, 0.6, 1.2), 90)
        >>> fractal.save("photos/train/silk/new.png")
        >>> fractal.resize((120, 90)).save("photos/val/wool/small.png")
        >>> index = unsquare.scan_source("photos")
        >>> [found] = unsquare.find_duplicates(index)
        >>> print(index.keys[found.first], index.keys[found.second])
        train/silk/new.png val/wool/small.png
        >>> found.in_two_splits, found.with_two_labels
        (True, True)
    """

    first: int
    """Row in the index."""
    second: int
    """A later row."""
    distance: int
    """Bits of 256 in which their fingerprints differ."""
    in_two_splits: bool
    """Whether one may be trained on while the other judges; pictures without a split train."""
    with_two_labels: bool
    """Whether they are labeled differently: by class, by labels or by value."""


def alike(index: ShapeIndex, rows: Sequence[int], fingerprints: Fingerprints, most: int) -> tuple[Duplicate, ...]:
    """Pairs that differ in few bits: those in two splits first, then those with two labels, then the nearest.

    So that many copies make few pairs, each of several pictures with equal fingerprints is paired with one of the
    others, in another split where there is one; and likewise with one of those whose fingerprint is near.

    Args:
        index: the images.
        rows: the rows that have fingerprints, in order.
        fingerprints: of these rows.
        most: the largest distance.
    """
    splits = np.where(index.splits == "", "train", index.splits)
    distinct, at = np.unique(fingerprints, axis=0, return_inverse=True)
    equal: list[list[int]] = [[] for _ in range(len(distinct))]
    for row, place in zip(rows, at.reshape(-1).tolist()):
        equal[place].append(row)
    near = chain(((one, one, 0) for one in range(len(distinct))), _near(distinct, most))
    labels = index.label_numbers
    pairs = dict(islice(_pairs(equal, near, splits), MOST_PAIRS))
    found = [
        Duplicate(
            first=first,
            second=second,
            distance=distance,
            in_two_splits=bool(splits[first] != splits[second]),
            with_two_labels=bool(labels[first] != labels[second]),
        )
        for (first, second), distance in pairs.items()
    ]
    found.sort(key=lambda one: (not one.in_two_splits, not one.with_two_labels, one.distance, one.first, one.second))
    return tuple(found)


def _pairs(
    equal: Sequence[Sequence[int]], near: Iterable[tuple[int, int, int]], splits: Strings
) -> Iterator[tuple[tuple[int, int], int]]:
    """Pairs of rows and their distance, from sets of equal rows and the sets that are near."""
    firsts = [{splits[row]: row for row in reversed(rows)} for rows in equal]  # the first row of each split

    def partner(row: int, place: int) -> int:
        others = [first for split, first in firsts[place].items() if split != splits[row]]
        return min(others, default=equal[place][0])

    for one, other, distance in near:
        both = [(row, partner(row, other)) for row in equal[one]] + [(row, partner(row, one)) for row in equal[other]]
        for first, second in {(min(pair), max(pair)) for pair in both}:
            if first != second:
                yield (first, second), distance


def _near(fingerprints: Fingerprints, most: int) -> Iterator[tuple[int, int, int]]:
    """Pairs of positions whose fingerprints differ in at most so many bits, half of them low; and in how many."""
    count = len(fingerprints)
    low = np.ascontiguousarray(fingerprints[:, 0])
    step = max(1, _BLOCK // max(count, 1))
    for start in range(0, count, step):
        differing = np.bitwise_count(low[start : start + step, None] ^ low[start:])
        one, other = np.nonzero(differing <= most // 2)
        one, other = one[one < other] + start, other[one < other] + start
        distance = np.bitwise_count(fingerprints[one] ^ fingerprints[other]).sum(axis=1, dtype=np.int64)
        near = distance <= most
        yield from zip(one[near].tolist(), other[near].tolist(), distance[near].tolist())


def duplicate_remarks(index: ShapeIndex, duplicates: Sequence[Duplicate]) -> tuple[Remark, ...]:
    """Remarks on near-duplicates that change what a run learns or how it is judged."""
    kinds = (
        ("near_duplicate_in_two_splits", "in two splits", lambda each: each.in_two_splits),
        ("near_duplicate_with_two_labels", "with two labels", lambda each: each.with_two_labels),
    )
    found = []
    for kind, words, concerned in kinds:
        if names := [f"{index.keys[each.first]} ~ {index.keys[each.second]}" for each in duplicates if concerned(each)]:
            text = f"{counted(names, 'pair')} of near-duplicates {words}: {{names}}."
            found.append(remark(kind, text, names, important=True))
    return tuple(found)


def with_groups(index: ShapeIndex, duplicates: Sequence[Duplicate]) -> ShapeIndex:
    """The index with near-duplicates in one group, where its splits do not tear them apart already.

    Then a val split drawn from it, or folds, keep them together. Groups that share near-duplicates become one.
    """
    units = units_of(index, [[each.first, each.second] for each in duplicates])
    splits = np.where(index.splits == "", "train", index.splits)
    groups = index.groups.copy()
    names = {units[rows[0]]: group for group, rows in sorted(rows_by_group(index).items(), reverse=True)}
    for unit in {int(units[each.first]) for each in duplicates}:
        rows = np.flatnonzero(units == unit)
        if len(set(splits[rows])) == 1:
            groups[rows] = names.get(unit, f"like {index.keys[unit]}")
    return replace(index, groups=groups)
