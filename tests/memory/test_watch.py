"""Peaks and traces agree with memory that is really taken."""

import time

import numpy as np
import torch

from unsquare.memory import meter as meter_module
from unsquare.memory import watch as watch_module
from unsquare.memory.heap import release_unused, return_freed
from unsquare.memory.meter import PeakMeter, resident_bytes
from unsquare.memory.watch import Watch
from unsquare.shapes import Shape

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
    monkeypatch.setattr(meter_module, "_reset_high_water_mark", lambda: False)
    release_unused()
    meter = PeakMeter(CPU)
    meter.start()
    before = resident_bytes()
    held = np.ones(SIZE, dtype=np.uint8)
    time.sleep(0.1)
    del held
    assert meter.stop() - before > 0.9 * SIZE


def test_a_trace_goes_on_after_a_resume():
    """A second watch takes over the samples up to a time, and its own clock continues from there."""
    first = Watch(CPU, lambda: "forward", interval_s=0.01)
    first.start()
    first.mark(3, 4, Shape(20, 25))
    time.sleep(0.1)
    first.stop()
    second = Watch(CPU, interval_s=0.01)
    second.take_over(first.samples(), until_s=0.05)
    second.start(offset_s=0.05)
    time.sleep(0.05)
    second.stop()
    samples = second.samples()
    times = samples["time_s"]
    assert times == sorted(times)
    assert times[0] < 0.05 < times[-1] < 2
    assert (3, 4, 20, 25, "forward") in set(
        zip(*(samples[name] for name in ("step", "images", "height", "width", "phase")))
    )


def test_a_trace_tells_what_is_in_use_from_what_is_held():
    """Blocks in use are counted beside resident memory, and fall when they are freed."""
    return_freed()
    watch = Watch(CPU, interval_s=0.005)
    watch.start()
    held = np.ones(SIZE, dtype=np.uint8)
    time.sleep(0.05)
    del held
    time.sleep(0.05)
    watch.stop()
    used = np.array(watch.samples()["allocated_bytes"])
    assert used.max() - used[-1] > 0.9 * SIZE


def test_a_long_trace_thins_itself(monkeypatch):
    """A trace never keeps more than its limit, and its interval grows instead."""
    monkeypatch.setattr(watch_module, "MAX_SAMPLES", 10)
    watch = Watch(CPU, interval_s=0.001)
    watch.start()
    time.sleep(0.1)
    watch.stop()
    assert len(watch._trace.time_s) < 10
    assert watch._interval_s > 0.001
