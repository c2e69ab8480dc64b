"""The C library's heap: whether freed blocks go back to the operating system, and how much is in use.

By default glibc keeps freed blocks of up to 32 MB, in a heap that is fragmented by larger ones: over many shapes, a
training process then holds a third more than it uses, and each run differs. After `return_freed` every block of a
megabyte or more is mapped by itself, so that resident memory equals the memory in use, within a percent. The cost is
that fresh pages must be cleared each time, a third to two thirds of a step's time (docs/experiments.md). After
`keep_freed` all freed memory is kept, up to about half more than a micro-batch uses, until `release_unused`. A later
`return_freed` is not exact: blocks that fit into memory kept before are taken from there.
"""

from __future__ import annotations

import ctypes

import torch

MAPPED_BYTES = 1 << 20
"""Blocks from this size on are mapped by themselves. With 4 MiB, peaks were three times as far from a line as with 1;
with 16 MiB they were a fifth higher. Neither was faster where maps are large."""

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_WITHOUT_LIMIT = -1

_LIBC = ctypes.CDLL(None)


def is_tunable() -> bool:
    """Whether the C library's heap can be configured."""
    return hasattr(_LIBC, "mallopt")


def return_freed() -> None:
    """Return every block of `MAPPED_BYTES` or more as soon as it is freed; does nothing without glibc."""
    _set(_M_MMAP_THRESHOLD, MAPPED_BYTES)
    _set(_M_TRIM_THRESHOLD, MAPPED_BYTES)


def keep_freed() -> None:
    """Keep every freed block for later use; does nothing without glibc."""
    _set(_M_MMAP_THRESHOLD, _WITHOUT_LIMIT)
    _set(_M_TRIM_THRESHOLD, _WITHOUT_LIMIT)


def release_unused() -> None:
    """Return freed memory that the C library (glibc) and the CUDA allocator hold."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim()


def trim() -> None:
    """Return the C library's freed memory, down to single pages between small blocks; does nothing without glibc."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


def in_use_bytes() -> int | None:
    """Bytes of all blocks allocated by the C library; None without glibc 2.33 or newer."""
    if not hasattr(_LIBC, "mallinfo2"):
        return None
    _LIBC.mallinfo2.restype = _Mallinfo2
    info = _LIBC.mallinfo2()
    return int(info.uordblks + info.hblkhd)


class _Mallinfo2(ctypes.Structure):
    """The result of mallinfo2(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _set(parameter: int, value: int) -> None:
    if is_tunable():
        _LIBC.mallopt(parameter, value)
