"""Joins the parts of a file that a decoder needs, without metadata and data after the picture."""

from __future__ import annotations

from typing import IO, TypeAlias

from unsquare.errors import ImageError

Part: TypeAlias = bytes | tuple[int, int]
"""Bytes, or the start and length of some bytes in the file."""


def join(fp: IO[bytes], parts: tuple[Part, ...]) -> bytearray:
    """The parts, joined in one block of memory.

    Raises:
        ImageError: the file has become shorter.
    """
    out = bytearray(sum(len(part) if isinstance(part, bytes) else part[1] for part in parts))
    view = memoryview(out)
    at = 0
    for part in parts:
        if isinstance(part, bytes):
            view[at : at + len(part)] = part
            at += len(part)
            continue
        fp.seek(part[0])
        end = at + part[1]
        while at < end:
            num_read = fp.readinto(view[at:end])  # type: ignore[attr-defined]
            if not num_read:
                raise ImageError("became shorter while it was read")
            at += num_read
    return out
