"""Holds out a validation split for sources that have none, by the hash of each name, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b

import numpy as np

from unsquare.errors import ConfigError
from unsquare.index.table import ShapeIndex, Strings


def with_validation(index: ShapeIndex, fraction: float, seed: int, copies: Sequence[Sequence[int]] = ()) -> ShapeIndex:
    """The index with every row in a split: rows without one become training rows, and a part of these validates.

    If the source has a validation split, it is kept. Otherwise the given part of each class's training rows (rounded;
    at least one and not all, where the class has two or more) with the smallest hash of seed and key is held out, so
    that a file added later moves at most one other file of its class. Copies of a picture stay together, by the hash of
    the first: no picture is both trained on and validated on, unless a class has nothing but copies of one picture. In
    tasks other than classification all rows count as one class.

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
        names = index.keys.copy()
        for first, *others in copies:
            names[others] = names[first]
        labels = index.labels if index.task == "classification" else np.zeros_like(index.labels)
        for label in np.unique(labels[training & (labels >= 0)]):
            rows = np.flatnonzero(training & (labels == label))
            splits[_held_out(names, rows, fraction, seed)] = "val"
    return replace(index, splits=splits)


def _held_out(names: Strings, rows: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    if len(rows) < 2:
        return rows[:0]
    count = min(len(rows) - 1, max(1, round(fraction * len(rows))))
    order = sorted(rows, key=lambda row: _hash(seed, str(names[row])))
    least, most = count, count
    while least and names[order[least]] == names[order[least - 1]]:
        least -= 1
    while most < len(rows) and names[order[most]] == names[order[most - 1]]:
        most += 1
    # The nearer cut beside the copies; a class with nothing but one picture's copies is cut among them.
    cuts = [cut for cut in (most, least) if 0 < cut < len(rows)]
    count = min(cuts, key=lambda cut: abs(cut - count), default=count)
    return np.array(order[:count], dtype=np.int64)


def _hash(seed: int, key: str) -> bytes:
    return blake2b(f"{seed}:{key}".encode(), digest_size=16).digest()
