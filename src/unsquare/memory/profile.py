"""Memory as the operating system and the device's allocator count it: the peak of a piece of work, and a trace.

`PeakMeter` answers what one micro-batch took at its highest; `Watch` samples the whole run in the background. On
Linux the kernel keeps the resident high-water mark itself and lets a process reset it, so the CPU's peak is exact
and costs nothing; elsewhere a thread samples, which can miss a short peak.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from unsquare.files import replacing
from unsquare.memory.budget import resident_bytes

MAX_SAMPLES = 20_000
"""A trace keeps at most this many samples; on reaching it, every other one goes and the interval doubles."""


class PeakMeter:
    """Measures the highest memory between `start` and `stop`: resident on a CPU, reserved on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sampler: _PeakSampler | None = None

    def start(self) -> None:
        """Forget earlier peaks."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        elif not _reset_high_water_mark():
            self._sampler = _PeakSampler()
            self._sampler.start()

    def stop(self) -> int:
        """The peak since `start`, in bytes."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return int(torch.cuda.max_memory_reserved(self._device))
        if self._sampler is not None:
            return self._sampler.finish()
        return _read_high_water_mark()


def _reset_high_water_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): 5 resets the peak resident set size
    except OSError:
        return False
    return True


def _read_high_water_mark() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resident_bytes()


class _PeakSampler(threading.Thread):
    """Samples the resident memory every two milliseconds and keeps the highest."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._peak = resident_bytes()
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.002):
            self._peak = max(self._peak, resident_bytes())

    def finish(self) -> int:
        self._end.set()
        self.join()
        return max(self._peak, resident_bytes())


@dataclass
class _Trace:
    """The samples of a run, a list per column."""

    time_s: list[float] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)
    device_bytes: list[int | None] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    computed_pixels: list[int] = field(default_factory=list)

    def thin(self) -> None:
        for column in vars(self).values():
            del column[::2]


_TRACE_SCHEMA = pa.schema(
    [
        ("time_s", pa.float64()),
        ("resident_bytes", pa.int64()),
        ("device_bytes", pa.int64()),
        ("step", pa.int64()),
        ("images", pa.int64()),
        ("computed_pixels", pa.int64()),
    ]
)


class Watch:
    """Samples memory in a background thread from `start` to `stop`, marked with what the run does at the time.

    Args:
        device: the device watched beside the process.
        interval_s: seconds between samples; grows when the run is long.
    """

    def __init__(self, device: torch.device, interval_s: float = 0.1) -> None:
        self._device = device
        self._interval_s = interval_s
        self._trace = _Trace()
        self._lock = threading.Lock()
        self._mark = (0, 0, 0)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_end, daemon=True)
        self._offset_s = 0.0
        self._started = time.perf_counter()

    def start(self, offset_s: float = 0.0) -> None:
        """Begin to sample; `offset_s` is the run's own clock at this moment (above 0 after a resume)."""
        self._offset_s = offset_s
        self._started = time.perf_counter()
        self._thread.start()

    def now_s(self) -> float:
        """The run's own clock: seconds trained, earlier parts of the run included."""
        return self._offset_s + time.perf_counter() - self._started

    def load(self, path: Path, until_s: float) -> None:
        """Take over the samples that an earlier part of the run wrote, up to a time on the run's clock."""
        table = pq.read_table(path, schema=_TRACE_SCHEMA)
        kept = table.filter(pc.less_equal(table["time_s"], until_s))
        self._trace = _Trace(**{name: kept[name].to_pylist() for name in _TRACE_SCHEMA.names})

    def mark(self, step: int, images: int, computed_pixels: int) -> None:
        """Say what runs from now on: the step, and the micro-batch's images and computed pixels (0 between them)."""
        self._mark = (step, images, computed_pixels)

    def write(self, path: Path) -> None:
        """Write the samples so far to a Parquet file, replacing it whole."""
        with self._lock:
            table = pa.table(vars(self._trace), schema=_TRACE_SCHEMA)
        with replacing(path) as partial:
            pq.write_table(table, partial)

    def stop(self) -> None:
        """End the sampling; does nothing the second time."""
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
        trace.device_bytes.append(int(torch.cuda.memory_reserved(self._device)) if on_cuda else None)
        step, images, computed_pixels = self._mark
        trace.step.append(step)
        trace.images.append(images)
        trace.computed_pixels.append(computed_pixels)
        if len(trace.time_s) >= MAX_SAMPLES:
            trace.thin()
            self._interval_s *= 2
