"""Whether the memory that a micro-batch will take is free: on a CPU nobody else says no before the kernel kills.

Where it is not, or where the device's allocator says that memory ran out, a micro-batch is cut in halves, and an image
alone is run by its fallbacks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from unsquare.data.loader import PaddedBatch
from unsquare.execution.strategy import Strategy
from unsquare.memory.amounts import format_bytes
from unsquare.memory.budget import free_host_bytes
from unsquare.memory.heap import release_unused
from unsquare.memory.meter import resident_bytes
from unsquare.network.engine import Engine, ShortageError
from unsquare.runs.memory_profile import Candidate, RunLimits

WAIT_S = 60.0
"""How long an image that cannot be divided waits for others to give memory back, before the run is saved and ends."""
TRIMMED = 0.75
"""Part of its bound in a heap that keeps what is freed, by which a micro-batch grows at the most when the heap was just
trimmed: 1.5 times what it takes where all is returned, of which 1.41 were measured."""

T = TypeVar("T")


class MemoryGuard:
    """Looks at what is free on a CPU; everywhere else, and where nothing was measured, memory counts as free.

    Args:
        engine: the network on its device.
        limits: what micro-batches take.
    """

    def __init__(self, engine: Engine, limits: RunLimits) -> None:
        self._profile = limits.training if engine.device.type == "cpu" else None

    def run(
        self,
        part: PaddedBatch,
        candidates: Iterable[Candidate],
        attempt: Callable[[PaddedBatch, str, Strategy], T],
        failed: Callable[[ShortageError], None],
    ) -> T:
        """Run a part by the first strategy, an image alone by the first that memory holds.

        Args:
            part: the micro-batch.
            candidates: best first; taken one by one as they are tried.
            attempt: runs the part by a strategy, given with its name.
            failed: told of each strategy for which memory was short.

        Raises:
            ShortageError: memory holds none of them.
        """
        known: list[tuple[str, Strategy, int]] = []
        for name, strategy, growth in candidates:
            try:
                self._require(part, growth)
                return attempt(part, name, strategy)
            except ShortageError as error:
                # An error keeps the frames that it came through, and these keep the activations.
                error.__traceback__ = error.__context__ = None
                failed(error)
                if len(part.images) > 1:
                    raise  # its halves are better off than the whole by a slower strategy
                last = error
            if growth is not None:
                known.append((name, strategy, growth))
        if not known:
            try:
                raise last
            finally:
                del last  # an error and a frame that keep each other would keep the micro-batch
        name, strategy, growth = min(known, key=lambda each: each[2])
        self._wait(growth)
        self._require(part, growth)
        return attempt(part, name, strategy)

    def _require(self, part: PaddedBatch, growth: int | None) -> None:
        """Refuse a part whose known growth in bytes is not free; None is not known."""
        if self._profile is None or growth is None or self._has(growth):
            return
        release_unused()
        growth = int(growth * TRIMMED) if self._profile.heap == "keep" else growth
        if self._has(growth):
            return
        free, budgeted = free_host_bytes(), max(self._profile.budget_bytes - resident_bytes(), 0)
        if budgeted < free:
            left, remedy = f"{format_bytes(budgeted)} of the budget is left", "give more with --memory"
        else:
            left, remedy = f"{format_bytes(free)} is free", "free some memory, or give less with --memory"
        raise ShortageError(
            f"A micro-batch needs its memory free, but {len(part.images)} images on {part.pixels.shape[2]} x "
            f"{part.pixels.shape[3]} take up to {format_bytes(growth)} and {left}; {remedy}."
        )

    def _has(self, growth: int) -> bool:
        assert self._profile is not None
        return resident_bytes() + growth <= self._profile.budget_bytes and growth <= free_host_bytes()

    def _wait(self, growth: int) -> None:
        """Wait until others left this much free, but no longer than `WAIT_S`."""
        deadline = time.monotonic() + WAIT_S
        while self._profile is not None and growth > free_host_bytes() and time.monotonic() < deadline:
            time.sleep(1.0)


def run_in_parts(
    batch: PaddedBatch,
    attempt: Callable[[PaddedBatch], T],
    is_too_large: Callable[[PaddedBatch], bool] = lambda part: False,
    failed: Callable[[PaddedBatch], None] = lambda part: None,
) -> Iterator[T]:
    """Run a micro-batch, in halves and halves of halves where memory does not hold it; one result for each part.

    Args:
        batch: the micro-batch.
        attempt: runs a part, all of it or nothing.
        is_too_large: whether a part of several images is halved without being tried.
        failed: told of each part of several images that memory did not hold.

    Raises:
        ShortageError: memory does not hold an image alone.
    """
    waiting = [batch]
    while waiting:
        part = waiting.pop()
        if len(part.images) > 1 and is_too_large(part):
            waiting += reversed(halves(part))
            continue
        try:
            done = attempt(part)
        except ShortageError:
            if len(part.images) == 1:
                raise
            failed(part)
            waiting += reversed(halves(part))
            continue
        yield done


def halves(batch: PaddedBatch) -> list[PaddedBatch]:
    """Two micro-batches of the images of one, each on the canvas that its own images need."""
    middle = len(batch.images) // 2
    return [_part(batch, slice(0, middle)), _part(batch, slice(middle, None))]


def _part(batch: PaddedBatch, images: slice) -> PaddedBatch:
    sizes = batch.sizes[images]
    height, width = sizes.amax(dim=0).tolist()
    return PaddedBatch(
        pixels=batch.pixels[images, :, :height, :width],
        sizes=sizes,
        labels=batch.labels[images],
        images=batch.images[images],
    )


def computed_pixels(batch: PaddedBatch) -> int:
    """The pixels of a micro-batch's canvas, all images together."""
    return len(batch.images) * batch.pixels.shape[2] * batch.pixels.shape[3]
