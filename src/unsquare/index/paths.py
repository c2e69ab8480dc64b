"""Which file each path of a manifest means.

Paths mean what they say: relative ones start at the manifest's folder, `..` and absolute ones are followed. But
several spellings of one path (`a//b`, `./a/b`, `x/../a/b`, the absolute one) are one picture; and a path that
is not there as written is looked for with Windows' backslashes as slashes, and under names that are equal but
for their Unicode form (macOS and archives made there decompose accents).
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
    """One for each path: relative to the root where it lies below, one spelling for each file."""
    backslashes: list[str] = field(default_factory=list)
    """Paths found only with backslashes as slashes."""
    other_forms: list[str] = field(default_factory=list)
    """Paths found only in another Unicode form."""
    missing: list[str] = field(default_factory=list)
    """Paths found in no way."""


def clean_path(root: str, path: str) -> str:
    """The one spelling of a path: without empty parts, `.` and `x/..`, relative where it lies below the root.

    Where `x` is a link, `x/..` stays: it leads elsewhere.
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
    """Whether both paths lead to one file; also where the first leads nowhere."""
    try:
        return os.path.samefile(posixpath.join(root, one), posixpath.join(root, other))
    except (OSError, ValueError):
        return not _is_there(root, one)


def find_paths(root: Path, paths: Sequence[str]) -> Paths:
    """The keys of a manifest's paths, each looked for below the root."""
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
    """Whether any of these few paths is there."""
    return len(find_paths(root, paths).missing) < len(paths)


def _is_there(base: str, key: str) -> bool:
    return "\0" not in key and os.path.lexists(posixpath.join(base, key))


class _PathFinder:
    """Looks for paths part by part, names compared in composed form (NFC); remembers each folder it lists."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, str]] = {}

    def find(self, base: str, key: str) -> str:
        """The path as the file system spells it; "" where there is none."""
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
