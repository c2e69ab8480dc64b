"""What a source lists before any image is opened: names, labels, splits, and sometimes sizes."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unsquare.errors import SourceError
from unsquare.index.table import Remark
from unsquare.index.text import Strings, shown
from unsquare.shapes import Sizes

SPLIT_NAMES = {
    "": "",
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Names of splits in sources, in lower case, and our names for them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """The images that a source names, in the order of their keys."""

    root: str
    """Folder that the keys are relative to; empty where there are no files."""
    keys: Strings
    """(N,) unique, sorted."""
    labels: Strings
    """(N,) class names, "" for images without a label."""
    splits: Strings
    """(N,) "train", "val", "test" or ""."""
    sizes: Sizes | None = None
    """(N, 2) displayed height, width where the source has them; then no file is opened."""
    groups: Strings | None = None
    """(N,) names of what no split may tear apart, "" for none; None where the source names no groups."""
    notes: tuple[Remark, ...] = ()
    """Remarks on the folders, links or columns."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of all labels, sorted."""
        return tuple(sorted(set(self.labels.tolist()) - {""}))


def class_name(name: str) -> str:
    """The name as a class: in composed form (NFC), so that equal names in different Unicode forms are one class."""
    return unicodedata.normalize("NFC", name)


def sorted_listing(
    root: str,
    keys: Strings,
    labels: Strings,
    splits: Strings,
    sizes: Sizes | None = None,
    notes: Sequence[Remark] = (),
    groups: Strings | None = None,
) -> Listing:
    """The listing in the order of its keys.

    Raises:
        SourceError: a key is listed twice.
    """
    names = keys.tolist()
    order = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
    keys = keys[order]
    if (twice := np.flatnonzero(keys[1:] == keys[:-1])).size:
        raise SourceError(
            f"Each image may be listed only once, but {twice.size} are listed again, first '{shown(keys[twice[0]])}'."
        )
    return Listing(
        root=root,
        keys=keys,
        labels=labels[order],
        splits=splits[order],
        sizes=None if sizes is None else sizes[order],
        groups=None if groups is None else groups[order],
        notes=tuple(notes),
    )
