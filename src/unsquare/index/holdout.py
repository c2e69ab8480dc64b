"""Holds out a validation split for sources that have none, by the hash of each name, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from unsquare.errors import ConfigError
from unsquare.index.table import ShapeIndex
from unsquare.index.text import Strings
from unsquare.index.units import class_counts_of, drawn_order, hash_of, units_of


def with_validation(index: ShapeIndex, fraction: float, seed: int, copies: Sequence[Sequence[int]] = ()) -> ShapeIndex:
    """The index with every row in a split: rows without one become training rows, and a part of these validates.

    If the source has a validation split, it is kept. Otherwise the given part of each class's training rows (rounded;
    at least one and not all, where the class has two or more) with the smallest hash of seed and key is held out, so
    that a file added later moves at most one other file of its class. Copies of a picture stay together, by the hash of
    the first: no picture is both trained on and validated on, unless a class has nothing but copies of one picture. In
    tasks other than classification all rows count as one class.

    Where the index has groups, whole groups are held out, as near to these parts as they allow.

    Args:
        index: the index, with or without splits.
        fraction: part of the training rows to hold out, in [0, 1).
        seed: another seed holds out other rows.
        copies: groups of rows whose files are equal (`find_copies`).
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"The part held out for validation must be at least 0 and below 1, but is {fraction}.")
    splits = index.splits.copy()
    splits[splits == ""] = "train"
    if fraction > 0 and not np.any(splits == "val"):
        training = splits == "train"
        if np.any(index.groups[training] != ""):
            splits[_held_out_units(index, training, fraction, seed, copies)] = "val"
        else:
            splits[_held_out_rows(index, training, fraction, seed, copies)] = "val"
    return replace(index, splits=splits)


def _held_out_rows(
    index: ShapeIndex, training: npt.NDArray[np.bool_], fraction: float, seed: int, copies: Sequence[Sequence[int]]
) -> npt.NDArray[np.int64]:
    """The rows to hold out where there are no groups, class by class."""
    names = index.keys.copy()
    for first, *others in copies:
        names[others] = names[first]
    strata = index.strata
    present = np.unique(strata[training & (strata >= 0)])
    found = [_held_out(names, np.flatnonzero(training & (strata == each)), fraction, seed) for each in present]
    return np.concatenate([np.zeros(0, dtype=np.int64), *found])


def _held_out(names: Strings, rows: npt.NDArray[np.int64], fraction: float, seed: int) -> npt.NDArray[np.int64]:
    if len(rows) < 2:
        return rows[:0]
    count = min(len(rows) - 1, max(1, round(fraction * len(rows))))
    order = sorted(rows, key=lambda row: hash_of(seed, str(names[row])))
    least, most = count, count
    while least and names[order[least]] == names[order[least - 1]]:
        least -= 1
    while most < len(rows) and names[order[most]] == names[order[most - 1]]:
        most += 1
    # The nearer cut beside the copies; a class with nothing but one picture's copies is cut among them.
    cuts = [cut for cut in (most, least) if 0 < cut < len(rows)]
    count = min(cuts, key=lambda cut: abs(cut - count), default=count)
    return np.array(order[:count], dtype=np.int64)


def _held_out_units(
    index: ShapeIndex, training: npt.NDArray[np.bool_], fraction: float, seed: int, copies: Sequence[Sequence[int]]
) -> npt.NDArray[np.int64]:
    """The rows to hold out where there are groups: whole units, in a random order.

    A unit is taken if that brings the numbers held out of each class nearer to those asked for, and leaves something to
    train on of each of its classes. A class of which nothing was taken then gets the unit that fits best.
    """
    units = units_of(index, copies)
    counts = class_counts_of(units[training], index.strata[training], index.num_strata)
    total = np.sum(list(counts.values()), axis=0)
    wanted = np.where(total < 2, 0, np.clip(np.rint(fraction * total), 1, np.maximum(total - 1, 1)))
    held, taken = np.zeros_like(total), set()
    order = drawn_order(index, units, counts, seed)

    def distance(unit: int) -> float:
        return float(np.abs(wanted - held - counts[unit]).sum())

    def leaves_some(unit: int) -> bool:
        return bool((held + counts[unit] < total)[counts[unit] > 0].all())

    for unit in order:
        if distance(unit) < np.abs(wanted - held).sum() and leaves_some(unit):
            taken.add(unit)
            held = held + counts[unit]
    for label in np.flatnonzero((wanted > 0) & (held == 0)):
        fitting = [unit for unit in order if unit not in taken and counts[unit][label] and leaves_some(unit)]
        if fitting and not held[label]:
            best = min(fitting, key=distance)
            taken.add(best)
            held = held + counts[best]
    return np.flatnonzero(training & np.isin(units, list(taken)))
