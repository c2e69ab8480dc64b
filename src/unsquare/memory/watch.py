"""Samples a run's memory over time in the background, each sample marked with what the run does then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from unsquare.memory.heap import in_use_bytes
from unsquare.memory.meter import resident_bytes
from unsquare.shapes import Shape

MAX_SAMPLES = 20_000
"""A trace keeps at most this many samples; beyond that, every other one is dropped and the interval doubles."""

Phase = Literal["", "data", "forward", "backward", "update"]
"""What the engine does at a moment; empty where it is none of these, as in an evaluation."""


@dataclass
class _Trace:
    """The samples of a run, a list per column."""

    time_s: list[float] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)
    allocated_bytes: list[int | None] = field(default_factory=list)
    reserved_bytes: list[int | None] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    height: list[int] = field(default_factory=list)
    width: list[int] = field(default_factory=list)
    phase: list[str] = field(default_factory=list)

    def thin(self) -> None:
        for column in vars(self).values():
            del column[::2]


class Watch:
    """Samples memory in a background thread from `start` to `stop`.

    Args:
        device: the device that is watched besides the process.
        phase: returns what the engine does at the moment.
        interval_s: seconds between samples; grows in long runs.
    """

    def __init__(self, device: torch.device, phase: Callable[[], Phase] = lambda: "", interval_s: float = 0.1) -> None:
        self._device = device
        self._phase = phase
        self._interval_s = interval_s
        self._trace = _Trace()
        self._lock = threading.Lock()
        self._mark = (0, 0, Shape(0, 0))
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_end, daemon=True)
        self._offset_s = 0.0
        self._started = time.perf_counter()

    def start(self, offset_s: float = 0.0) -> None:
        """Start to sample; `offset_s` is the run's own clock at this moment (above 0 after a resume)."""
        self._offset_s = offset_s
        self._started = time.perf_counter()
        self._thread.start()

    def now_s(self) -> float:
        """The run's own clock: seconds trained, including earlier parts of the run."""
        return self._offset_s + time.perf_counter() - self._started

    def take_over(self, samples: Mapping[str, Sequence[Any]], until_s: float) -> None:
        """Continue the samples of an earlier part of the run, in columns, up to a time on the run's clock."""
        kept = [at for at, time_s in enumerate(samples["time_s"]) if time_s <= until_s]
        self._trace = _Trace(**{name: [samples[name][at] for at in kept] for name in vars(self._trace)})

    def mark(self, step: int, images: int, canvas: Shape) -> None:
        """Set what runs from now on: the step, and the micro-batch's images and canvas (0 between micro-batches)."""
        self._mark = (step, images, canvas)

    def samples(self) -> dict[str, list[Any]]:
        """The samples so far, a list per column."""
        with self._lock:
            return {name: list(column) for name, column in vars(self._trace).items()}

    def stop(self) -> None:
        """Stop sampling; does nothing when called again."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _sample_until_end(self) -> None:
        while not self._end.is_set():
            with self._lock:
                self._take_sample()
            self._end.wait(self._interval_s)

    def _take_sample(self) -> None:
        trace = self._trace
        on_cuda = self._device.type == "cuda"
        trace.time_s.append(self.now_s())
        trace.resident_bytes.append(resident_bytes())
        trace.allocated_bytes.append(int(torch.cuda.memory_allocated(self._device)) if on_cuda else in_use_bytes())
        trace.reserved_bytes.append(int(torch.cuda.memory_reserved(self._device)) if on_cuda else None)
        step, images, canvas = self._mark
        trace.step.append(step)
        trace.images.append(images)
        trace.height.append(canvas.height)
        trace.width.append(canvas.width)
        trace.phase.append(self._phase())
        if len(trace.time_s) >= MAX_SAMPLES:
            trace.thin()
            self._interval_s *= 2
