"""Checks that an index can be trained on; if not, one sentence says why and what to do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unsquare.errors import SourceError
from unsquare.index.table import Problem, ShapeIndex
from unsquare.index.text import shown
from unsquare.index.units import torn_groups

_NUM_SHOWN = 3


def check_trainable(index: ShapeIndex, skip_bad: bool, *, least_classes: int = 2) -> ShapeIndex:
    """The index, without its problems if `skip_bad` allows leaving them out.

    Raises:
        SourceError: there are no files, no images, images without a label, fewer than two classes, or
            problems.
    """
    if index.problems and not skip_bad:
        raise SourceError(_describe(index.problems))
    if not len(index):
        raise SourceError("There are no images to train on.")
    if not index.root:
        raise SourceError("The manifest lists the shapes of files that do not exist; training needs the files.")
    unlabeled = np.flatnonzero(~index.labeled)
    if unlabeled.size == len(index):
        raise SourceError(
            "No image has a label; put each into a folder named after its class, or list them in a manifest with a "
            "column 'label' (another column of it is named by --label-columns)."
        )
    if unlabeled.size:
        raise SourceError(
            f"{unlabeled.size} of {len(index)} images have no label, first '{shown(index.keys[unlabeled[0]])}'; "
            "put them into a class folder, or fill in the manifest's column 'label'."
        )
    if least_classes > 1 and index.targets is None:
        _check_classes(index, least_classes)
    return replace(index, problems=())


def check_groups(index: ShapeIndex) -> None:
    """Refuse groups that the source's own splits tear apart: what judges would be like what was trained on.

    Raises:
        SourceError: names a group and two of its files.
    """
    if torn := torn_groups(index):
        group, first, other = torn[0]
        more = "" if len(torn) == 1 else f" ({len(torn) - 1:,} more are in several splits, too)"
        one, two = (f"'{shown(index.keys[row])}' in {index.splits[row] or 'train'}" for row in (first, other))
        raise SourceError(
            f"A group must be in one split, but '{shown(group)}' has {one} and {two}{more}; move them into one split, "
            "or leave the column of groups out."
        )


def _check_classes(index: ShapeIndex, least_classes: int) -> None:
    for what, labels in (("", index.labels), (" of train", index.labels[np.isin(index.splits, ("train", ""))])):
        if labels.size and len(present := np.unique(labels)) < least_classes:
            name = shown(index.classes[present[0]])
            raise SourceError(f"Training needs at least two classes, but all images{what} are of '{name}'.")


def check_targets(index: ShapeIndex) -> None:
    """Refuse labels or values from which nothing can be learned, in an index whose images are all in a split.

    Raises:
        SourceError: all training images have the same, or labels cannot be judged.
    """
    targets = index.targets
    if targets is None:
        return
    training = np.flatnonzero(index.splits == "train")
    what = "labels" if index.task == "multilabel" else "value"
    if training.size and not targets[training].std(axis=0).any():
        raise SourceError(
            f"Training needs images that differ, but all {training.size} of train have the same {what}: "
            f"{shown(index.label_text(training[0]))}."
        )
    judged = targets[index.splits == "val"]
    if index.task == "multilabel" and judged.size and not judged.any():
        raise SourceError(
            "Labels are judged on val, but none of its images has any label; put images with labels there."
        )


def _describe(problems: tuple[Problem, ...]) -> str:
    first = "; ".join(f"'{shown(problem.key)}' {problem.reason}" for problem in problems[:_NUM_SHOWN])
    more = f"; and {len(problems) - _NUM_SHOWN} more" if len(problems) > _NUM_SHOWN else ""
    files = "1 file" if len(problems) == 1 else f"{len(problems)} files"
    return (
        f"{files} cannot be read: {first}{more}. Fix or remove them, leave them out with --skip-bad, or list them all "
        "with `unsquare scan`."
    )
