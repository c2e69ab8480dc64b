"""Whether the memory that a micro-batch will take is there: on a CPU nobody else says no before the kernel kills."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from unsquare.data.loader import PaddedBatch
from unsquare.execution.strategy import Way
from unsquare.memory.budget import format_bytes, free_host_bytes
from unsquare.memory.heap import release_unused
from unsquare.memory.meter import resident_bytes
from unsquare.network.engine import Engine, ShortageError
from unsquare.training.bounds import Bounds
from unsquare.training.capacity import Grows

WAIT_S = 60.0
"""How long an image that cannot be divided waits for others to give memory back, before the run is saved and ends."""
TRIMMED = 0.75
"""Part of its bound in a kept heap by which a micro-batch grows at the most when the heap was just trimmed: 1.5 times
what it takes where all is returned, of which 1.41 were measured."""

T = TypeVar("T")


class Room:
    """Looks at what is free on a CPU; everywhere else, and where nothing was measured, there is room.

    Args:
        engine: the network on its device.
        bounds: what micro-batches take.
    """

    def __init__(self, engine: Engine, bounds: Bounds) -> None:
        self._capacity = bounds.capacity if engine.device.type == "cpu" else None

    def run(
        self,
        part: PaddedBatch,
        ways: Iterable[Grows],
        attempt: Callable[[PaddedBatch, str, Way], T],
        failed: Callable[[ShortageError], None],
    ) -> T:
        """Run a part by the first way, an image alone by the first that memory holds.

        Args:
            part: the micro-batch.
            ways: best first; only as many are asked for as are tried.
            attempt: runs it in a way, given with its name.
            failed: told of each way that memory did not hold.

        Raises:
            ShortageError: memory holds none of them.
        """
        known: list[tuple[str, Way, int]] = []
        for name, way, growth in ways:
            try:
                self._require(part, growth)
                return attempt(part, name, way)
            except ShortageError as error:
                # An error keeps the frames that it came through, and these keep the activations.
                error.__traceback__ = error.__context__ = None
                failed(error)
                if len(part.images) > 1:
                    raise  # its halves are better off than the whole by a slower way
                last = error
            if growth is not None:
                known.append((name, way, growth))
        if not known:
            try:
                raise last
            finally:
                del last  # an error and a frame that keep each other would keep the micro-batch
        name, way, growth = min(known, key=lambda each: each[2])
        self._wait(growth)
        self._require(part, growth)
        return attempt(part, name, way)

    def _require(self, part: PaddedBatch, growth: int | None) -> None:
        """Look whether memory is there for a part that is known to grow by so many bytes; None is not known."""
        if self._capacity is None or growth is None or self._has(growth):
            return
        release_unused()
        growth = int(growth * TRIMMED) if self._capacity.heap == "keep" else growth
        if self._has(growth):
            return
        free, budgeted = free_host_bytes(), max(self._capacity.budget_bytes - resident_bytes(), 0)
        if budgeted < free:
            left, remedy = f"{format_bytes(budgeted)} of the budget are left", "give more with --memory"
        else:
            left, remedy = f"{format_bytes(free)} are left", "free some, or give less with --memory"
        raise ShortageError(
            f"A micro-batch must find its memory free, but {len(part.images)} images on {part.pixels.shape[2]} x "
            f"{part.pixels.shape[3]} take up to {format_bytes(growth)} and {left}; {remedy}."
        )

    def _has(self, growth: int) -> bool:
        assert self._capacity is not None
        return resident_bytes() + growth <= self._capacity.budget_bytes and growth <= free_host_bytes()

    def _wait(self, growth: int) -> None:
        """Wait until others left so much free, but no longer than `WAIT_S`."""
        deadline = time.monotonic() + WAIT_S
        while self._capacity is not None and growth > free_host_bytes() and time.monotonic() < deadline:
            time.sleep(1.0)
