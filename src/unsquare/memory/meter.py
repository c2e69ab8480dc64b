"""Measures memory as the operating system and the device's allocator count it: now, and the peak over some work.

On Linux the kernel keeps the resident high-water mark itself and lets a process reset it, so the CPU's peak is exact
and costs nothing; elsewhere a thread samples, which can miss a short peak.
"""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import torch


def resident_bytes() -> int:
    """The resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)


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
