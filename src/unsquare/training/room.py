"""Whether the memory that a micro-batch will take is there: on a CPU nobody else says no before the kernel kills."""

from __future__ import annotations

import time

from unsquare.data.loader import PaddedBatch
from unsquare.memory.budget import format_bytes, free_host_bytes
from unsquare.memory.heap import release_unused
from unsquare.memory.meter import resident_bytes
from unsquare.training.bounds import Bounds
from unsquare.training.engine import Engine, ShortageError

WAIT_S = 60.0
"""How long an image that cannot be divided waits for others to give memory back, before the run is saved and ends."""


class Room:
    """Looks at what is free on a CPU; everywhere else, and where nothing was measured, there is room.

    Args:
        engine: the network on its device.
        bounds: what micro-batches take.
    """

    def __init__(self, engine: Engine, bounds: Bounds) -> None:
        self._capacity = bounds.capacity if engine.device.type == "cpu" else None

    def require(self, part: PaddedBatch, growth: int | None) -> None:
        """Look whether memory is there for a part that is known to grow by so many bytes; None is not known.

        Raises:
            ShortageError: it is not.
        """
        if growth is None or self._has(growth):
            return
        release_unused()
        if self._has(growth):
            return
        raise ShortageError(
            f"A micro-batch must find its memory free, but {len(part.images)} images on {part.pixels.shape[2]} x "
            f"{part.pixels.shape[3]} take up to {format_bytes(growth)} and {format_bytes(free_host_bytes())} are left; "
            "free some, or give less with --memory so that plans ask for less."
        )

    def wait(self, growth: int) -> None:
        """Wait until so much is free, but no longer than `WAIT_S`."""
        deadline = time.monotonic() + WAIT_S
        while not self._has(growth) and time.monotonic() < deadline:
            time.sleep(1.0)

    def _has(self, growth: int) -> bool:
        if self._capacity is None:
            return True
        return resident_bytes() + growth <= self._capacity.budget_bytes and growth <= free_host_bytes()
