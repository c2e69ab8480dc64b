"""A folder of class folders, with or without train, val and test folders above them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from unsquare.errors import SourceError
from unsquare.index.content import HEAD_BYTES, IMAGE_SUFFIXES, sniff
from unsquare.index.listing import SPLIT_NAMES, Listing, sorted_listing
from unsquare.index.table import strings

_JUNK_FOLDERS = frozenset({"__MACOSX", "@eaDir", "lost+found"})
"""Folders that archivers, network drives and file systems leave; hidden ones are passed over too."""


def list_folder(root: Path) -> Listing:
    """The images below a folder; a file outside a class folder gets no label.

    A class is the first folder below the root, or below a split folder where there are split folders; folders
    inside a class folder belong to that class. A file is listed where its name or its content is that of an
    image.

    Raises:
        SourceError: there are no images, split folders stand beside other folders, or a folder cannot be
            read.
    """
    keys = [key for key, is_file in _files(root) if _is_listed(root, key, is_file)]
    if not keys:
        raise SourceError(f"No images were found in '{root}'; it should hold a folder of images for each class.")
    split_layout = _has_splits(root, keys)
    labels, splits = [], []
    for key in keys:
        *folders, _ = key.split("/")
        splits.append(SPLIT_NAMES[folders.pop(0).lower()] if split_layout and folders else "")
        labels.append(folders[0] if folders else "")
    return sorted_listing(str(root), strings(keys), strings(labels), strings(splits))


def _has_splits(root: Path, keys: list[str]) -> bool:
    tops = {key.split("/")[0] for key in keys if "/" in key}
    others = {top for top in tops if top.lower() not in SPLIT_NAMES}
    if others and any(SPLIT_NAMES.get(top.lower()) == "train" for top in tops):
        raise SourceError(
            f"'{root}' holds a folder for training and, beside it, '{min(others)}', which is not a split; "
            "put class folders either directly in the source or inside train, val and test."
        )
    return bool(tops) and not others


def _is_listed(root: Path, key: str, is_file: bool) -> bool:
    if os.path.splitext(key)[1].lower() in IMAGE_SUFFIXES:
        return True
    if not is_file:
        return False
    try:
        with Path(root, key).open("rb") as file:
            return bool(sniff(file.read(HEAD_BYTES)))
    except OSError:  # A file that neither is called an image nor can be opened is none of ours.
        return False


def _files(root: Path) -> Iterator[tuple[str, bool]]:
    """Relative POSIX path of everything but folders, and whether it is a file; links are followed."""
    pending: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(root),))]
    while pending:
        folder, above = pending.pop()
        for entry in _entries(root / folder):
            key = f"{folder}/{entry.name}" if folder else entry.name
            if not entry.is_dir():
                yield key, entry.is_file()
            elif not entry.name.startswith(".") and entry.name not in _JUNK_FOLDERS:
                real = os.path.realpath(entry.path)
                if real not in above:  # A link to a folder that it lies in would never end.
                    pending.append((key, (*above, real)))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise SourceError(f"The folder '{folder}' cannot be read: {error.strerror}.") from error
