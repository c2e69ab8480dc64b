"""Which images belong together, so that no split may tear them apart: those of a group, and copies of one file.

Pictures of one patient, object or sender are alike in ways that have nothing to do with their class. Where some are
trained on and others judge, the accuracy is that of recognizing the patient. A unit is a connected set of rows: groups
that share a copy of a picture are one unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from unsquare.index.table import ShapeIndex

Units = npt.NDArray[np.int64]
"""(N,) for each row the first row of its unit."""


def units_of(index: ShapeIndex, copies: Sequence[Sequence[int]] = ()) -> Units:
    """The unit of each row.

    Args:
        index: the images, with or without groups.
        copies: groups of rows whose files are equal (`find_copies`).
    """
    above = list(range(len(index)))

    def first_of(row: int) -> int:
        while above[row] != row:
            above[row] = above[above[row]]  # halves the way for the next call
            row = above[row]
        return row

    for rows in (*rows_by_group(index).values(), *copies):
        for row in rows[1:]:
            one, other = sorted((first_of(rows[0]), first_of(row)))
            above[other] = one
    return np.array([first_of(row) for row in range(len(index))], dtype=np.int64)


def rows_by_group(index: ShapeIndex) -> dict[str, list[int]]:
    """The rows of each group, in the order of the index; rows without a group are left out."""
    rows: dict[str, list[int]] = {}
    for row in np.flatnonzero(index.groups != "").tolist():
        rows.setdefault(index.groups[row], []).append(row)
    return rows


def torn_groups(index: ShapeIndex) -> list[tuple[str, int, int]]:
    """Groups that the source's own splits tear apart, each with two of its rows in different splits.

    Rows without a split count as training rows, as they do in training.
    """
    splits = np.where(index.splits == "", "train", index.splits)
    found = []
    for group, (first, *others) in rows_by_group(index).items():
        if (other := next((row for row in others if splits[row] != splits[first]), None)) is not None:
            found.append((group, first, other))
    return found


def drawn_order(index: ShapeIndex, units: Units, firsts: Iterable[int], seed: int) -> list[int]:
    """Units, given by their first rows, in a random order that depends on the seed and on each unit's name alone.

    A unit is named by its group, so that a picture added to a group later does not move it.
    """
    names = index.keys.copy()
    for group, rows in sorted(rows_by_group(index).items(), reverse=True):
        names[units[rows[0]]] = f"group {group}"
    return sorted(firsts, key=lambda row: hash_of(seed, str(names[row])))


def class_counts_of(units: Units, labels: npt.NDArray[np.int32], num_classes: int) -> dict[int, npt.NDArray[np.int64]]:
    """For each unit the number of its images by class (`ShapeIndex.strata`), (C,)."""
    firsts, at = np.unique(units, return_inverse=True)
    counts = np.zeros((len(firsts), num_classes), dtype=np.int64)
    np.add.at(counts, (at[labels >= 0], labels[labels >= 0]), 1)
    return dict(zip(firsts.tolist(), counts))


def hash_of(seed: int, name: str) -> bytes:
    """A random number that is the same on every machine."""
    return blake2b(f"{seed}:{name}".encode(), digest_size=16).digest()
