"""Lists a folder of class folders, with or without train, val and test folders above them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from unsquare.errors import ImageError, SourceError
from unsquare.index.content import HEAD_BYTES, sniff
from unsquare.index.listing import SPLIT_NAMES, Listing, class_name, sorted_listing
from unsquare.index.opening import open_regular
from unsquare.index.remarks import counted, remark
from unsquare.index.table import Remark
from unsquare.index.text import printable, shown, strings
from unsquare.index.walk import Walk, is_leftover, looks_like_image, walk


def list_folder(root: Path) -> Listing:
    """The images below a folder; a file outside a class folder gets no label.

    A class is the first folder below the root, or below the split folders if there are any; folders inside a class
    folder belong to that class. A file is listed if its name or its content is that of an image, unless its name is
    that of a backup or of an unfinished download.

    Raises:
        SourceError: there are no images, split folders are mixed with other folders, or a folder cannot be read.
    """
    found = walk(root)
    taken = [key for key, is_file in found.files if looks_like_image(key) or (is_file and _begins_as_image(root, key))]
    keys, leftovers = [key for key in taken if not is_leftover(key)], [key for key in taken if is_leftover(key)]
    if not keys:
        left_out = "".join(f" {note.text}" for note in _left_out(found, leftovers))
        raise SourceError(
            f"No images were found in '{shown(str(root))}'; to train, it should hold a folder of images for each class."
            f"{left_out}"
        )
    has_splits = _has_splits(root, keys)
    labels, splits = [], []
    for key in keys:
        *folders, _ = key.split("/")
        splits.append(SPLIT_NAMES[folders.pop(0).lower()] if has_splits and folders else "")
        # A name that is not UTF-8 cannot be stored as a class; each file in such a folder becomes a problem.
        labels.append(class_name(folders[0]) if folders and printable(folders[0]) == folders[0] else "")
    notes = [*_left_out(found, leftovers), *_layout(root, found, keys, has_splits)]
    return sorted_listing(str(root), strings(keys), strings(labels), strings(splits), notes=notes)


def _begins_as_image(root: Path, key: str) -> bool:
    try:
        with open_regular(root / key) as (file, _):
            return bool(sniff(file.read(HEAD_BYTES)))
    except (OSError, ImageError):  # A file without an image's name that cannot be opened is ignored.
        return False


def _has_splits(root: Path, keys: list[str]) -> bool:
    tops = {key.split("/")[0] for key in keys if "/" in key}
    others = {top for top in tops if top.lower() not in SPLIT_NAMES}
    named = {SPLIT_NAMES[top.lower()] for top in tops - others}
    # One folder called val or test among others may be a class (valid, invalid); train, or two of them, hardly.
    if others and ("train" in named or len(named) > 1):
        raise SourceError(
            f"'{shown(str(root))}' has a folder for {_spoken(named)} and also '{shown(min(others))}', which is not a "
            "split; put class folders either directly in the source or inside train, val and test, or list the images "
            "in a manifest."
        )
    return bool(tops) and not others


def _spoken(named: set[str]) -> str:
    words = {"train": "training", "val": "validation", "test": "testing"}
    return " and ".join(words[name] for name in words if name in named)


def _left_out(found: Walk, leftovers: list[str]) -> Iterator[Remark]:
    """Remarks on files that are left out by the rules."""
    if names := found.hidden:
        text = (
            f"Left out {counted(names, 'hidden file or folder', 'hidden files or folders')} (names that begin with a "
            f"dot): {{names}}."
        )
        yield remark("hidden", text, names)
    if leftovers:
        kind = counted(leftovers, "backup or unfinished file", "backups or unfinished files")
        yield remark("leftover", f"Left out {kind} (by the end of the name): {{names}}.", leftovers)
    if names := found.system:
        yield remark("system_folder", f"Left out {counted(names, 'system folder')}: {{names}}.", names)
    if names := found.lost:
        text = f"Left out {counted(names, 'broken link')}: {{names}}."
        yield remark("lost_link", text, names, important=True)
    if names := found.again:
        text = f"Did not follow {counted(names, 'link')} to folders above, or to folders listed already: {{names}}."
        yield remark("repeated_link", text, names, important=True)


def _layout(root: Path, found: Walk, keys: list[str], has_splits: bool) -> Iterator[Remark]:
    """Remarks on how the folders are read."""
    depth = 2 if has_splits else 1
    holding = {"/".join(key.split("/")[:level]) for key in keys for level in range(1, depth + 1)}
    empty = sorted(folder for folder in found.folders if folder.count("/") < depth and folder not in holding)
    empty = [folder for folder in empty if os.path.dirname(folder) not in empty]
    if empty:
        yield remark("empty_folder", f"{counted(empty, 'folder')} without images: {{names}}.", empty, important=True)
    inner = sorted({os.path.dirname(key) for key in keys if key.count("/") > depth})
    if inner:
        yield _inner(root, inner, depth, {key.split("/")[0] for key in keys})
    tops = sorted({key.split("/")[0] for key in keys if "/" in key})
    if not has_splits and (names := [top for top in tops if top.lower() in SPLIT_NAMES]):
        text = f"{{names}} is read as a class, not as a split, since there is also '{shown(_first_other(tops))}'."
        yield remark("split_as_class", text, names, important=True)
    if has_splits:
        yield from _spelled_twice(tops)
    spelled = defaultdict(set)
    for folders in (key.split("/")[:-1] for key in keys):
        for name in folders[depth - 1 : depth]:
            spelled[class_name(name)].add(name)
    if names := sorted(name for name, forms in spelled.items() if len(forms) > 1):
        text = f"{counted(names, 'class', 'classes')} spelled in two Unicode forms, read as one: {{names}}."
        yield remark("unicode_forms", text, names)


def _inner(root: Path, inner: list[str], depth: int, tops: set[str]) -> Remark:
    """The remark on folders inside class folders, with the layout that may have been meant."""
    owner = "/".join(inner[0].split("/")[:depth])
    text = (
        f"{counted(inner, 'folder')} inside class folders, read as the class above: first "
        f"'{shown(inner[0])}' as '{shown(owner.split('/')[-1])}'"
    )
    if depth == 1 and any(folder.split("/")[1].lower() in SPLIT_NAMES for folder in inner):
        text += "; split folders belong above the class folders"
    if depth == 1 and len(tops) > 1 and _are_alike(inner, tops):
        text += "; if the folders above are splits, call them train, val and test"
    if depth == 1 and len(tops) == 1:
        text += f"; if they are the classes or splits, give '{shown(str(root / owner))}' as the source"
    return remark("inner_folder", text + ".", inner, important=True)


def _are_alike(inner: list[str], tops: set[str]) -> bool:
    """Whether all upper folders hold the same two or more folder names."""
    below = {top: {folder.split("/")[1] for folder in inner if folder.startswith(f"{top}/")} for top in tops}
    first = next(iter(below.values()))
    return len(first) > 1 and all(names == first for names in below.values())


def _first_other(tops: list[str]) -> str:
    return next(top for top in tops if top.lower() not in SPLIT_NAMES)


def _spelled_twice(tops: list[str]) -> Iterator[Remark]:
    together = defaultdict(list)
    for top in tops:
        together[SPLIT_NAMES[top.lower()]].append(top)
    for split, names in together.items():
        if len(names) > 1:
            yield remark("split_folders", f"{{names}} are together the split {split}.", names)
