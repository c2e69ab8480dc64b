"""The C library's heap: whether freed blocks go back to the operating system, and how much is in use.

By default glibc keeps freed blocks of up to 32 MB for later, in a heap that larger ones break into pieces: over many
shapes a training process then holds a third more than it uses, and no two runs the same. `return_freed` has every
block of a megabyte or more mapped by itself, so that resident memory is what is in use, to the percent. The price is
that fresh pages must be cleared again and again, a third to two thirds of the time of a step (docs/experiments.md).
`keep_freed` is the opposite: all is kept, and memory grows up to about half more than is in use in one micro-batch,
until `release_unused`. The two do not mix: blocks that fit into what was kept before are taken from there.
"""

from __future__ import annotations

import ctypes

import torch

MAPPED_BYTES = 1 << 20
"""Blocks from this size on are mapped by themselves. With 4 MiB, peaks were three times as far from a line as with 1,
with 16 MiB a fifth higher; neither was faster where maps are large."""

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_WITHOUT_LIMIT = -1

_LIBC = ctypes.CDLL(None)


def is_tunable() -> bool:
    """Whether the C library lets itself be told."""
    return hasattr(_LIBC, "mallopt")


def return_freed() -> None:
    """Give every block of `MAPPED_BYTES` or more back as soon as it is freed; does nothing without glibc."""
    _set(_M_MMAP_THRESHOLD, MAPPED_BYTES)
    _set(_M_TRIM_THRESHOLD, MAPPED_BYTES)


def keep_freed() -> None:
    """Keep every freed block for the next that needs one; does nothing without glibc."""
    _set(_M_MMAP_THRESHOLD, _WITHOUT_LIMIT)
    _set(_M_TRIM_THRESHOLD, _WITHOUT_LIMIT)


def release_unused() -> None:
    """Give memory that was freed, but is kept for later, back: the C library's (glibc) and the CUDA allocator's."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim()


def trim() -> None:
    """Give the C library's freed memory back, down to single pages between small blocks; does nothing without glibc."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


def in_use_bytes() -> int | None:
    """The bytes of the blocks that the C library has handed out; None without glibc 2.33 or newer."""
    if not hasattr(_LIBC, "mallinfo2"):
        return None
    _LIBC.mallinfo2.restype = _Mallinfo2
    info = _LIBC.mallinfo2()
    return int(info.uordblks + info.hblkhd)


class _Mallinfo2(ctypes.Structure):
    """What mallinfo(3) fills in."""

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
