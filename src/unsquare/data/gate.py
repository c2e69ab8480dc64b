"""Limits the bytes that decoders take at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

DECODE_BYTES = 256 * 1024**2
"""Temporary memory of all decoders together; a picture that needs more is decoded alone."""


class ByteGate:
    """Admits work while the bytes that it needs fit in the limit; work that never fits is admitted alone.

    Args:
        limit: bytes that all admitted work may take together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, num_bytes: int) -> Iterator[None]:
        """Wait until `num_bytes` fit, and reserve them for the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + num_bytes <= self._limit)
            self._held += num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._held -= num_bytes
                self._changed.notify_all()


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
