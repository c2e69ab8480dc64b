"""Lists everything below a folder, following links; names that are left out by rule are kept for remarks.

Left out are names that begin with a dot (macOS's side files, Android's trash and thumbnails, checkpoints of notebooks),
the folders of archivers, drives and systems, and links that are broken or lead back to a folder already listed. A file
with an image's name is never left out, except for the dot: the scan reports anything else that is wrong with it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from unsquare.errors import SourceError
from unsquare.index.content import IMAGE_SUFFIXES
from unsquare.index.listing import SPLIT_NAMES
from unsquare.index.text import shown

SYSTEM_FOLDERS = frozenset(
    {
        *("__MACOSX", "@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot"),
        *("lost+found", "$RECYCLE.BIN", "RECYCLER", "System Volume Information"),
    }
)
"""Folders that archivers, network drives and file systems create."""

_LEFTOVER = re.compile(
    r"[^/](~|_original|\.(tmp|temp|bak|orig"  # of editors and converters; exiftool keeps `a.jpg_original`
    r"|part|partial|filepart|crdownload|opdownload|download))\Z",  # unfinished downloads
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Walk:
    """The content of a folder, as relative POSIX paths."""

    files: list[tuple[str, bool]] = field(default_factory=list)
    """Everything except for folders, and whether it is a regular file."""
    folders: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    """Folders, and files with an image's name, that begin with a dot."""
    system: list[str] = field(default_factory=list)
    """Folders of `SYSTEM_FOLDERS`."""
    lost: list[str] = field(default_factory=list)
    """Broken links without an image's name."""
    again: list[str] = field(default_factory=list)
    """Links to folders that are listed already, or are above."""


def looks_like_image(name: str) -> bool:
    """Whether a file's name is that of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_leftover(key: str) -> bool:
    """Whether a file's name is that of a backup, or of an incomplete file."""
    return _LEFTOVER.search(key) is not None


def walk(root: Path) -> Walk:
    """Walk a folder.

    A folder that links lead to is listed once below each class folder: so links between folders end, and do not
    multiply, while two classes or splits may share a folder.

    Raises:
        SourceError: a folder cannot be read.
    """
    found = Walk()
    walked: set[tuple[str, ...]] = set()
    class_depth = 1
    # Linked folders come last: a folder's own place has priority over links to it.
    own: list[tuple[str, frozenset[str]]] = [("", frozenset())]
    linked: list[tuple[str, frozenset[str]]] = []
    while own or linked:
        folder, above = (own or linked).pop()
        real = os.path.realpath(root / folder)
        place = (*folder.split("/")[:class_depth], real)
        if real in above or place in walked:
            found.again.append(folder)
            continue
        walked.add(place)
        if folder:
            found.folders.append(folder)
        for entry in _entries(root / folder):
            key = f"{folder}/{entry.name}" if folder else entry.name
            if _sort(entry, key, found):
                (linked if entry.is_symlink() else own).append((key, above | {real}))
        if not folder and all(key.lower() in SPLIT_NAMES for key, _ in own + linked):
            class_depth = 2
    return found


def _sort(entry: os.DirEntry[str], key: str, found: Walk) -> bool:
    """Add an entry to its list; True where it is a folder to walk."""
    is_folder, is_file = _kind(entry)
    if entry.name.startswith("."):
        if is_folder or looks_like_image(entry.name):
            found.hidden.append(key)
    elif is_folder and entry.name in SYSTEM_FOLDERS:
        found.system.append(key)
    elif is_folder:
        return True
    elif entry.is_symlink() and not is_file and not looks_like_image(entry.name) and not os.path.exists(entry.path):
        found.lost.append(key)
    else:
        found.files.append((key, is_file))
    return False


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether it is, after following links, a folder or a regular file; a circular link is neither."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:
        return False, False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name, reverse=True)  # taken from the end
    except OSError as error:
        raise SourceError(
            f"The folder '{shown(str(folder))}' cannot be read ({error.strerror}); fix that, or move the folder out of "
            "the source."
        ) from error
