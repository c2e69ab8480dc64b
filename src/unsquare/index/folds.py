"""Folds for cross-validation: every image that is not in test judges once, and trains in all other folds.

Each class is spread evenly (stratified), and what belongs together stays together: groups and copies. Units are dealt
out, largest first, then class by class in a random order, each to the fold that has least of its classes. So without
groups the images of a class in two folds, and all images of them, differ by one at most. In tasks other than
classification all images count as one class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from unsquare.errors import SourceError
from unsquare.index.table import ShapeIndex
from unsquare.index.text import shown
from unsquare.index.units import class_counts_of, drawn_order, units_of


def with_folds(index: ShapeIndex, folds: int, seed: int, copies: Sequence[Sequence[int]] = ()) -> list[ShapeIndex]:
    """The index with each fold in turn as its val split; the rest trains, and test rows stay test.

    A val split of the source is dealt out with the training rows.

    Args:
        index: the index, with or without splits and groups.
        folds: how many folds there are.
        seed: another seed deals otherwise.
        copies: groups of rows whose files are equal (`find_copies`).

    Raises:
        SourceError: there are fewer images or groups than folds, or a fold leaves nothing to learn or to judge.
    """
    judged = index.splits != "test"
    dealt = _deal(index, judged, folds, seed, copies)
    found = []
    for fold in range(folds):
        splits = index.splits.copy()
        splits[judged] = np.where(dealt[judged] == fold, "val", "train")
        found.append(replace(index, splits=splits))
        if why := _useless(found[-1]):
            raise SourceError(
                f"Each fold must leave something to learn and something to judge, but with fold {fold + 1} of {folds} "
                f"{why}; give another --folds or --seed, or smaller groups."
            )
    return found


def _useless(index: ShapeIndex) -> str:
    """Why nothing can be learned or judged with a fold, as the end of a sentence; empty where it can."""
    training, judging = index.splits == "train", index.splits == "val"
    if index.targets is None:
        classes = np.unique(index.labels[training])
        return "" if len(classes) != 1 else f"only the class '{shown(index.classes[classes[0]])}' is left to train on"
    if not index.targets[training].std(axis=0).any():
        return "all images left to train on have the same " + ("labels" if index.task == "multilabel" else "value")
    return "no image to judge has any label" if index.task == "multilabel" and not index.targets[judging].any() else ""


def _deal(
    index: ShapeIndex, judged: npt.NDArray[np.bool_], folds: int, seed: int, copies: Sequence[Sequence[int]]
) -> npt.NDArray[np.int64]:
    """The fold of each row, from 0; rows that are not judged get any."""
    units = units_of(index, copies)
    counts = class_counts_of(units[judged], index.strata[judged], index.num_strata)
    if len(counts) < folds:
        raise SourceError(
            f"{folds} folds need at least as many images, where a group or copies of a picture count as one, but there "
            f"are {len(counts)}; give fewer --folds."
        )
    total = np.maximum(np.sum(list(counts.values()), axis=0), 1)
    loads = np.zeros((folds, index.num_strata))
    fold_of = {}
    order = drawn_order(index, units, counts, seed)
    for unit in sorted(order, key=lambda unit: (-int(counts[unit].sum()), int(counts[unit].argmax()))):
        own = counts[unit]
        # Least of its own classes first, then least of all; of equals the first fold.
        chosen = int(np.lexsort((loads.sum(axis=1), (loads * (own / total)).sum(axis=1)))[0])
        loads[chosen] += own
        fold_of[unit] = chosen
    return np.array([fold_of.get(unit, 0) for unit in units.tolist()], dtype=np.int64)
