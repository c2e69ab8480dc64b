"""A gate that counts bytes: decoders run side by side as long as their passing needs fit together."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

DECODE_BYTES = 256 * 1024**2
"""What all decoders together may take in passing; a picture that needs more is decoded alone."""


class ByteGate:
    """Lets work through while the bytes it asks for fit; what never fits goes through alone.

    Args:
        limit: bytes that all work inside may take together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, num_bytes: int) -> Iterator[None]:
        """Wait until `num_bytes` fit, and hold them for the block."""
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
