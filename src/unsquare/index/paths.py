"""Finds the file that each path of a manifest means.

Paths are used as given: relative ones start at the manifest's folder, `..` and absolute ones are followed. But several
spellings of one path (`a//b`, `./a/b`, `x/../a/b`, the absolute one) are one picture. A path that does not exist as
written is also tried with slashes for Windows' backslashes, and under names that only differ in their Unicode form
(macOS and archives made there decompose accents).
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """A manifest's paths as keys."""

    keys: list[str]
    """One for each path: relative to the root for paths below it, with one spelling for each file."""
    backslashes: list[str] = field(default_factory=list)
    """Paths found only with backslashes as slashes."""
    other_forms: list[str] = field(default_factory=list)
    """Paths found only in another Unicode form."""
    missing: list[str] = field(default_factory=list)
    """Paths that were not found."""


def clean_path(root: str, path: str) -> str:
    """The canonical spelling of a path: without empty parts, `.` and `x/..`, and relative below the root.

    Where `x` is a link, `x/..` is kept, since it leads elsewhere.
    """
    if not (path.startswith(("/", ".")) or "//" in path or "/." in path or path.endswith("/")):
        return path
    parts = [part for part in path.split("/") if part not in ("", ".")]
    plain = "/" * path.startswith("/") + "/".join(parts)
    if ".." in parts and not _same_place(root, plain, posixpath.normpath(plain)):
        return plain
    whole = posixpath.normpath(posixpath.join(root, plain))
    below = posixpath.normpath(root).rstrip("/") + "/"
    return whole[len(below) :] if whole.startswith(below) else posixpath.normpath(plain)


def _same_place(root: str, one: str, other: str) -> bool:
    """Whether both paths lead to the same file; also where the first does not exist."""
    try:
        return os.path.samefile(posixpath.join(root, one), posixpath.join(root, other))
    except (OSError, ValueError):
        return not _is_there(root, one)


def find_paths(root: Path, paths: Sequence[str]) -> Paths:
    """The keys of a manifest's paths, each searched below the root."""
    base, finder = str(root), _PathFinder()
    found = Paths([])
    for path in paths:
        key = clean_path(base, path)
        if not _is_there(base, key):
            if "\\" in path and (other := finder.find(base, clean_path(base, path.replace("\\", "/")))):
                found.backslashes.append(path)
                key = other
            elif other := finder.find(base, key):
                found.other_forms.append(path)
                key = other
            else:
                found.missing.append(path)
        found.keys.append(key)
    return found


def any_there(root: Path, paths: Sequence[str]) -> bool:
    """Whether any of these few paths exists."""
    return len(find_paths(root, paths).missing) < len(paths)


def _is_there(base: str, key: str) -> bool:
    return "\0" not in key and os.path.lexists(posixpath.join(base, key))


class _PathFinder:
    """Looks for paths part by part, names compared in composed form (NFC); remembers each folder it lists."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, str]] = {}

    def find(self, base: str, key: str) -> str:
        """The path as the file system spells it; "" where it does not exist."""
        if _is_there(base, key):
            return key
        if key.isascii():
            return ""
        at = "/" if key.startswith("/") else base
        spelled = []
        for part in key.strip("/").split("/"):
            stored = part if part == ".." or _is_there(at, part) else self._names(at).get(_form(part), "")
            if not stored:
                return ""
            at = posixpath.join(at, stored)
            spelled.append(stored)
        return "/" * key.startswith("/") + "/".join(spelled)

    def _names(self, folder: str) -> dict[str, str]:
        if folder not in self._folders:
            try:
                names = sorted(os.listdir(folder))
            except OSError:
                names = []
            self._folders[folder] = {_form(name): name for name in names}
        return self._folders[folder]


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)
