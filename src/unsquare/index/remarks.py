"""Finds what a user should know of a source before training on it; remarks refuse nothing.

Some remarks only the listing can make (folders without images, unused columns); they come with the index, as its notes.
The rest follow from the rows, and are found here.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence, Sized

import numpy as np
import numpy.typing as npt

from unsquare.index.copies import Copies, find_copies
from unsquare.index.table import Remark, ShapeIndex
from unsquare.index.text import shown
from unsquare.index.units import torn_groups
from unsquare.settings import checks_arguments

_SPLITS = ("train", "val", "test")
_MOST_NAMES = 100
"""Most names kept in a remark."""
_NUM_SHOWN = 3
_WORDS = {"classification": ("class", "classes"), "multilabel": ("label", "labels"), "regression": ("value", "values")}
_SEPARATORS = ("|", ",", ";")
"""What labels are usually separated by."""
_NUMBER = re.compile(r"\+?(-?)0*(\d+)(?:\.(\d*))?")


@checks_arguments
def find_remarks(index: ShapeIndex) -> tuple[Remark, ...]:
    """All remarks on an index's source: its notes, and those on its classes, splits and files.

    Files of equal length and shape are compared by content, each with a few reads (`find_copies`); rows without
    files, and files that have gone, are left out of that.

    Args:
        index: what `scan_source` returned.

    Returns:
        A remark for each thing that was found; none is a reason to refuse the source.

    Example:
        >>> from pathlib import Path
        >>> Path("photos/train/linen").mkdir()
        >>> for remark in unsquare.find_remarks(unsquare.scan_source("photos")):
        ...     print(remark.text)
        1 folder without images: 'train/linen'.
    """
    return (*index.notes, *row_remarks(index, find_copies(index)))


def row_remarks(index: ShapeIndex, copies: Copies) -> tuple[Remark, ...]:
    """Like `find_remarks`, without the index's notes, and with copies that were found before."""
    return (*_on_classes(index), *_on_groups(index), *_on_copies(index, copies))


def class_counts(index: ShapeIndex) -> dict[str, dict[str, int]]:
    """The images of each class, or with each label, by split, those without a split under ""; only splits in the index.

    A regression has none.
    """
    if index.task == "regression":
        return {}
    splits = [split for split in (*_SPLITS, "") if np.any(index.splits == split)]
    columns = {split: _count(index, index.splits == split) for split in splits}
    return {name: {split: columns[split][i] for split in splits} for i, name in enumerate(index.classes)}


def _count(index: ShapeIndex, rows: npt.NDArray[np.bool_]) -> list[int]:
    """How many of these rows have each class or label."""
    if index.targets is not None:
        return [int(count) for count in np.nansum(index.targets[rows], axis=0)]
    found: list[int] = np.bincount(index.labels[rows & (index.labels >= 0)], minlength=len(index.classes)).tolist()
    return found


def remark(kind: str, text: str, names: Sequence[str] = (), *, important: bool = False) -> Remark:
    """A remark about these names; {names} in the text is replaced by the first of them."""
    first = ", ".join(f"'{shown(name)}'" for name in names[:_NUM_SHOWN])
    more = f" and {len(names) - _NUM_SHOWN:,} more" if len(names) > _NUM_SHOWN else ""
    kept = tuple(shown(name) for name in names[:_MOST_NAMES])
    return Remark(
        kind=kind, text=text.replace("{names}", first + more), count=len(names), names=kept, important=important
    )


def counted(things: Sized, one: str, several: str = "") -> str:
    """How many there are, in words: "1 folder", "3 folders"."""
    return f"1 {one}" if len(things) == 1 else f"{len(things):,} {several or one + 's'}"


def _on_classes(index: ShapeIndex) -> Iterator[Remark]:
    counts = class_counts(index)
    words = _WORDS[index.task]
    if names := [name for name, by_split in counts.items() if not sum(by_split.values())]:
        text = f"{counted(names, *words)} without any readable image: {{names}}."
        yield remark("class_without_images", text, names, important=True)
    present = {name: by_split for name, by_split in counts.items() if sum(by_split.values())}
    if len(present) == 1 and index.task == "classification":
        text = "All images are of one class, {names}, so there is nothing to tell apart; training needs two."
        yield remark("one_class", text, list(present), important=True)
    yield from _on_splits(present, words)
    if names := [name for name, by_split in present.items() if _for_training(by_split) == 1]:
        text = f"{counted(names, *words)} with only one image to train on: {{names}}."
        yield remark("single_image", text, names, important=True)
    groups = defaultdict(list)
    for name in counts:
        groups[_bare(name)].append(name)
    if names := [" / ".join(map(repr, map(shown, group))) for group in groups.values() if len(group) > 1]:
        differ = "differ only in case, spaces, invisible characters or the form of a number"
        text = f"{counted(names, 'pair')} of {words[1]} that {differ}: {', '.join(names[:_NUM_SHOWN])}."
        yield remark("alike_classes", text, names, important=True)
    unlabeled = index.keys[~index.labeled].tolist()
    if unlabeled:
        yield remark("no_label", f"{counted(unlabeled, 'image')} without a label: {{names}}.", unlabeled)
    if index.targets is not None and index.task == "multilabel" and np.nansum(index.targets, axis=1).max(initial=0) < 2:
        yield _on_single_labels(index)


def _on_groups(index: ShapeIndex) -> Iterator[Remark]:
    """The remark on groups in more than one split, which training refuses."""
    if torn := torn_groups(index):
        names = [f"{group} ({_in_split(index, first)}, {_in_split(index, other)})" for group, first, other in torn]
        text = f"{counted(names, 'group')} in more than one split, which training refuses: {{names}}."
        yield remark("torn_group", text, names, important=True)


def _in_split(index: ShapeIndex, row: int) -> str:
    return f"{index.splits[row] or 'train'}: {index.keys[row]}"


def _on_single_labels(index: ShapeIndex) -> Remark:
    """The remark on labels of which no image has two."""
    meant = next((one for one in _SEPARATORS if any(one in name for name in index.classes)), "")
    hint = f"; if {meant!r} separates them, give --label-separator '{meant}'" if meant else ""
    text = f"No image has more than one label, so they may be classes (--task classification){hint}."
    return remark("single_labels", text, index.classes if meant else (), important=True)


def _on_splits(present: dict[str, dict[str, int]], words: tuple[str, str]) -> Iterator[Remark]:
    """Remarks on classes that are missing in some splits."""
    splits = {split for by_split in present.values() for split, count in by_split.items() if count}
    if "train" in splits or "" in splits:
        for split in ("val", "test"):
            # A class in neither train nor val is reported once, for val.
            only = [name for name, by_split in present.items() if not _for_training(by_split) and by_split.get(split)]
            if split == "test":
                only = [name for name in only if not present[name].get("val")]
            if only:
                text = f"{counted(only, *words)} in {split} but not in train, so never learned: {{names}}."
                yield remark(f"only_in_{split}", text, only, important=True)
    if "val" in splits:
        lacking = [name for name, by_split in present.items() if _for_training(by_split) and not by_split.get("val")]
        if lacking:
            text = f"{counted(lacking, *words)} without an image in val, so not evaluated there: {{names}}."
            yield remark("not_in_val", text, lacking)


def _for_training(by_split: dict[str, int]) -> int:
    """Images that are trained on, or may be since they have no split."""
    return by_split.get("train", 0) + by_split.get("", 0)


def _bare(name: str) -> str:
    """The name without what readers do not see: case, width, spaces, format characters; 01 and 1.0 become 1."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    bare = "".join(one for one in plain if not one.isspace() and unicodedata.category(one) not in ("Cf", "Cc"))
    if number := _NUMBER.fullmatch(bare):
        sign, whole, part = number.groups(default="")
        return f"{sign}{whole}.{part.rstrip('0')}"
    return bare


def _on_copies(index: ShapeIndex, copies: Copies) -> Iterator[Remark]:
    sampled = " (long files compared by samples)" if copies.sampled else ""
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        names = list(_pairs(index, copies, one, other))
        if names:
            text = f"{counted(names, 'image')} of {other} in {one} as well, byte for byte{sampled}: {{names}}."
            yield remark("in_two_splits", text, names, important=True)
    labels = index.label_numbers
    two_labels = [group for group in copies.groups if len(set(labels[group].tolist())) > 1]
    if two_labels:
        names = [
            f"{_labeled(index, group[0])} = {_labeled(index, _other_label(labels, group))}" for group in two_labels
        ]
        text = f"{counted(names, 'image')} under more than one label, byte for byte{sampled}: {{names}}."
        yield remark("two_labels", text, names, important=True)
    pairs = (pair for group in copies.groups for pair in _plain(index, labels, group))
    names = [f"{index.keys[first]} = {index.keys[row]}" for first, row in pairs]
    if names:
        text = f"{counted(names, 'image')} with the same bytes as another of its class and split{sampled}: {{names}}."
        yield remark("copies", text, names)


def _plain(index: ShapeIndex, labels: npt.NDArray[np.int64], group: list[int]) -> Iterator[tuple[int, int]]:
    """Each row of a group whose class and split an earlier row has, too, with that row."""
    first: dict[tuple[int, str], int] = {}
    for row in group:
        if (earlier := first.setdefault((int(labels[row]), index.splits[row]), row)) != row:
            yield earlier, row


def _pairs(index: ShapeIndex, copies: Copies, one: str, other: str) -> Iterator[str]:
    """Each picture of the second split that is also in the first, with its place there."""
    for group in copies.groups:
        first = [row for row in group if index.splits[row] == one]
        if first:
            yield from (f"{index.keys[first[0]]} = {index.keys[row]}" for row in group if index.splits[row] == other)


def _labeled(index: ShapeIndex, row: int) -> str:
    return f"{index.keys[row]} ({index.label_text(row)})"


def _other_label(labels: npt.NDArray[np.int64], group: list[int]) -> int:
    return next(row for row in group if labels[row] != labels[group[0]])
