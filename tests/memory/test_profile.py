"""Peaks and traces agree with memory that is really taken."""

import time

import numpy as np
import pyarrow.parquet as pq
import torch

from unsquare.memory import profile
from unsquare.memory.budget import release_unused
from unsquare.memory.profile import PeakMeter, Watch

CPU = torch.device("cpu")
SIZE = 200 << 20


def test_the_meter_sees_a_peak_that_is_over():
    """Memory that was taken and given back between start and stop is counted, and forgotten by the next start."""
    release_unused()  # what other tests left in the heap could hold the array without growing
    meter = PeakMeter(CPU)
    meter.start()
    before = meter.stop()
    meter.start()
    np.ones(SIZE, dtype=np.uint8)
    assert meter.stop() - before > 0.9 * SIZE
    release_unused()
    meter.start()
    assert meter.stop() - before < 0.5 * SIZE


def test_without_the_kernels_mark_a_thread_samples(monkeypatch):
    """Where the high-water mark cannot be reset, sampling finds a peak that lasts some milliseconds."""
    monkeypatch.setattr(profile, "_reset_high_water_mark", lambda: False)
    release_unused()
    meter = PeakMeter(CPU)
    meter.start()
    before = profile.resident_bytes()
    held = np.ones(SIZE, dtype=np.uint8)
    time.sleep(0.1)
    del held
    assert meter.stop() - before > 0.9 * SIZE


def test_a_trace_goes_on_after_a_resume(tmp_path):
    """A second watch takes over the samples up to a time, and its own clock goes on from there."""
    first = Watch(CPU, interval_s=0.01)
    first.start()
    first.mark(3, 4, 500)
    time.sleep(0.1)
    first.stop()
    first.write(tmp_path / "memory.parquet")
    second = Watch(CPU, interval_s=0.01)
    second.load(tmp_path / "memory.parquet", until_s=0.05)
    second.start(offset_s=0.05)
    time.sleep(0.05)
    second.stop()
    second.write(tmp_path / "memory.parquet")
    times = pq.read_table(tmp_path / "memory.parquet")["time_s"].to_pylist()
    assert times == sorted(times)
    assert times[0] < 0.05 < times[-1] < 2
    assert (4, 500) in set(
        zip(*(pq.read_table(tmp_path / "memory.parquet")[name].to_pylist() for name in ("images", "computed_pixels")))
    )


def test_a_long_trace_thins_itself(monkeypatch):
    """A trace never keeps more than its limit, and its interval grows instead."""
    monkeypatch.setattr(profile, "MAX_SAMPLES", 10)
    watch = Watch(CPU, interval_s=0.001)
    watch.start()
    time.sleep(0.1)
    watch.stop()
    assert len(watch._trace.time_s) < 10
    assert watch._interval_s > 0.001
