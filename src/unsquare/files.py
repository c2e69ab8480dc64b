"""Writes files atomically, and reads regular files only."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.partial")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it replaces `path` only if the block succeeds."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def partial_of(path: Path) -> str | None:
    """The name of the file that a temporary path of `replacing` belongs to; None for any other path."""
    match = _PARTIAL.fullmatch(path.name)
    return match["name"] if match else None


def clear_partials(folder: Path) -> None:
    """Delete temporary files of `replacing` left in a folder by processes that ended while they wrote."""
    for path in folder.iterdir():
        match = _PARTIAL.fullmatch(path.name)
        if match and not _is_alive(int(match["process"])):
            path.unlink(missing_ok=True)


@contextmanager
def without_empty_folders(path: Path) -> Iterator[None]:
    """A block that creates `path`; if it fails, the folders that it created and left empty are removed."""
    missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # it does not exist, or is not empty
                folder.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_regular(path: Path) -> bytes:
    """The content of a regular file; anything else, such as a pipe, which would block a reader, is an OSError."""
    require_regular(path)
    return path.read_bytes()


def require_regular(path: Path) -> None:
    """Raise OSError unless the path is that of a regular file, or a link to one."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"'{path}' is not a regular file")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
