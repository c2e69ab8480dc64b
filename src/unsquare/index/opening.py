"""Opens picture files, and nothing else: a pipe, a socket or a device in a picture's place is never waited for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from unsquare.errors import ImageError

_NO_WAITING = getattr(os, "O_NONBLOCK", 0)
"""Without it, opening a pipe waits for somebody to write into it; it means nothing to a regular file."""


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[IO[bytes], os.stat_result]]:
    """The file, open for reading, and its status; call it within `image_errors`.

    Raises:
        ImageError: it is no regular file.
    """
    # Looked at before it is opened, too: opening some devices does something.
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
