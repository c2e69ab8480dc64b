"""Opens picture files that are regular files only, and never waits for a pipe, a socket or a device."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from unsquare.errors import ImageError

_NO_WAITING = getattr(os, "O_NONBLOCK", 0)
"""Without it, opening a pipe waits for a writer; regular files ignore it."""


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[IO[bytes], os.stat_result]]:
    """The file, open for reading, and its status; call it within `image_errors`.

    Raises:
        ImageError: it is not a regular file.
    """
    # Also checked before it is opened, since opening some devices has effects.
    _require_regular(os.stat(path))
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAITING)) as fp:
        status = os.fstat(fp.fileno())
        _require_regular(status)
        yield fp, status


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ImageError("is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("is not a regular file")
