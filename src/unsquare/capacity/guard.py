"""The memory guard: checks before each micro-batch that the memory it will take is free.

On a CPU nothing else does: the kernel kills a process that takes too much. Where memory is short, or the device's
allocator reports that it ran out, a micro-batch is halved, and a single image is run by its fallbacks.
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
"""How long a single image waits for other processes to free memory, before the run is saved and ends."""
TRIMMED = 0.75
"""Where the allocator keeps freed memory and was just trimmed, a micro-batch grows by at most this part of its bound:
1.5 times what it takes where freed memory is returned; 1.41 was measured."""

T = TypeVar("T")


class MemoryGuard:
    """Checks the free memory of a CPU; on other devices, and where nothing was measured, memory counts as free.

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
        """Run a part by its first strategy; a single image by the first that fits in memory.

        Args:
            part: the micro-batch.
            candidates: best first; an iterator, read only as far as needed.
            attempt: runs the part by a strategy, which is given with its name.
            failed: called with the error of each strategy that ran out of memory.

        Raises:
            ShortageError: it fits by none of them.
        """
        known: list[tuple[str, Strategy, int]] = []
        for name, strategy, growth in candidates:
            try:
                self._require(part, growth)
                return attempt(part, name, strategy)
            except ShortageError as error:
                # An error holds the frames that it passed through, and these hold the activations.
                error.__traceback__ = error.__context__ = None
                failed(error)
                if len(part.images) > 1:
                    raise  # halving it is faster than a slower strategy
                last = error
            if growth is not None:
                known.append((name, strategy, growth))
        if not known:
            try:
                raise last
            finally:
                del last  # an error and a frame that refer to each other would keep the micro-batch alive
        name, strategy, growth = min(known, key=lambda each: each[2])
        self._wait(growth)
        self._require(part, growth)
        return attempt(part, name, strategy)

    def _require(self, part: PaddedBatch, growth: int | None) -> None:
        """Refuse a part whose known growth in bytes is not free; a growth of None is unknown and passes."""
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
            f"A micro-batch of {len(part.images)} images on {part.pixels.shape[2]} x {part.pixels.shape[3]} takes up "
            f"to {format_bytes(growth)}, but only {left}; {remedy}."
        )

    def _has(self, growth: int) -> bool:
        assert self._profile is not None
        return resident_bytes() + growth <= self._profile.budget_bytes and growth <= free_host_bytes()

    def _wait(self, growth: int) -> None:
        """Wait until this much memory is free, for at most `WAIT_S`."""
        deadline = time.monotonic() + WAIT_S
        while self._profile is not None and growth > free_host_bytes() and time.monotonic() < deadline:
            time.sleep(1.0)


def run_in_parts(
    batch: PaddedBatch,
    attempt: Callable[[PaddedBatch], T],
    is_too_large: Callable[[PaddedBatch], bool] = lambda part: False,
    failed: Callable[[PaddedBatch], None] = lambda part: None,
) -> Iterator[T]:
    """Run a micro-batch, or its halves where it does not fit in memory, and so on; one result for each part.

    Args:
        batch: the micro-batch.
        attempt: runs a part completely, or raises.
        is_too_large: whether a part of several images is halved without being tried.
        failed: called with each part of several images that did not fit.

    Raises:
        ShortageError: a single image does not fit.
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
    """Two micro-batches with half of the images each, on the canvases that these need."""
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
        other_labels=None if batch.other_labels is None else batch.other_labels[images],
        label_weights=None if batch.label_weights is None else batch.label_weights[images],
    )


def computed_pixels(batch: PaddedBatch) -> int:
    """Pixels of the canvases of all images of a micro-batch."""
    return len(batch.images) * batch.pixels.shape[2] * batch.pixels.shape[3]
