"""What fits and what it takes: probe steps of the real network on this device, and the bounds that follow.

Probes grow by doubling from a small canvas, so that none is ever much larger than one known to fit, up to the pixels
of a usual micro-batch, or to half the budget. Straight lines through
them give bytes and seconds of any micro-batch. The largest micro-batch planned is then run once as it is, before
training: an extrapolation is checked before anything depends on it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from unsquare.data.loader import READ_AHEAD, PaddedBatch
from unsquare.memory.budget import release_unused
from unsquare.memory.model import MemoryModel, TimeModel
from unsquare.memory.profile import PeakMeter
from unsquare.plan.config import Limits
from unsquare.shapes import Shape, Sizes
from unsquare.training.engine import Engine

VERSION = 1
HEADROOM = 0.04
"""Part of the budget that no plan uses: allocator fragmentation and what the probes did not see."""

FIRST_PIXELS = 1 << 16
PROBE_SECONDS = 8.0
"""After this long, no probe starts that is larger than the largest image."""

LONG_PROBE_S = 2.0
"""A probe that takes longer is run once."""

Run = Callable[[Engine, int, Shape], float]
"""Runs a micro-batch of so many images on a canvas; returns seconds."""

LEAST_LAUNCH_PIXELS, MOST_LAUNCH_PIXELS = 1 << 14, 1 << 22


@dataclass(frozen=True)
class Need:
    """How large the micro-batches will be: probes reach that far, because short lines predict badly."""

    largest_image: int
    """Pixels of the largest image."""
    usual_pixels: int
    """Pixels that hardly any micro-batch will have more of."""

    @classmethod
    def of(cls, sizes: Sizes, step_images: int) -> Need:
        """The need of images of these shapes, (N, 2), of which a step takes so many."""
        pixels = sizes.prod(axis=1)
        return cls(int(pixels.max()), int(max(pixels.max(), pixels.mean() * step_images)))


@dataclass(frozen=True)
class Probe:
    """One measured micro-batch."""

    images: int
    height: int
    width: int
    peak_bytes: int
    seconds: float

    @property
    def pixels(self) -> int:
        """Computed pixels."""
        return self.images * self.height * self.width


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What the planner may count on, and the measurements behind it."""

    budget_bytes: int
    """The memory budget of one rank."""
    reserved_bytes: int
    """What the loader's decoders may take of it."""
    memory: MemoryModel
    """Peak bytes of a training micro-batch."""
    time: TimeModel
    """Seconds of a training micro-batch."""
    evaluation_memory: MemoryModel
    """Peak bytes of a micro-batch that is only evaluated."""
    checkpointing: bool
    """Whether activations are recomputed instead of kept."""
    probes: tuple[Probe, ...]

    @property
    def budget_pixels(self) -> int:
        """The most computed pixels of a training micro-batch."""
        return self._pixels(self.memory)

    @property
    def evaluation_pixels(self) -> int:
        """The most computed pixels of a micro-batch that is only evaluated."""
        return self._pixels(self.evaluation_memory)

    @property
    def launch_pixels(self) -> int:
        """The cost of one more micro-batch as pixels, to the nearest power of two.

        A clock is never twice the same; rounded, the same machine makes the same plan.
        """
        pixels = min(max(self.time.launch_pixels, LEAST_LAUNCH_PIXELS), MOST_LAUNCH_PIXELS)
        return int(2 ** round(math.log2(pixels)))

    def _pixels(self, memory: MemoryModel) -> int:
        # Each pixel of a micro-batch also stands in the batches read ahead, three bytes each.
        with_queue = replace(memory, bytes_per_pixel=memory.bytes_per_pixel + 3 * READ_AHEAD)
        return with_queue.largest_pixels(self.usable_bytes)

    @property
    def usable_bytes(self) -> int:
        """The budget less what is kept back: headroom and the decoders' bytes."""
        return int(self.budget_bytes * (1 - HEADROOM)) - self.reserved_bytes

    def to_dict(self) -> dict[str, Any]:
        """The content of `models.json`."""
        return {
            "version": VERSION,
            "budget_bytes": self.budget_bytes,
            "reserved_bytes": self.reserved_bytes,
            "memory": self.memory.to_dict(),
            "time": self.time.to_dict(),
            "evaluation_memory": self.evaluation_memory.to_dict(),
            "checkpointing": self.checkpointing,
            "budget_pixels": self.budget_pixels,
            "evaluation_pixels": self.evaluation_pixels,
            "launch_pixels": self.launch_pixels,
            "probes": [asdict(probe) for probe in self.probes],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Capacity:
        """The capacity that `to_dict` wrote."""
        return cls(
            budget_bytes=int(values["budget_bytes"]),
            reserved_bytes=int(values["reserved_bytes"]),
            memory=MemoryModel.from_dict(values["memory"]),
            time=TimeModel.from_dict(values["time"]),
            evaluation_memory=MemoryModel.from_dict(values["evaluation_memory"]),
            checkpointing=bool(values["checkpointing"]),
            probes=tuple(Probe(**probe) for probe in values["probes"]),
        )


def measure_training(
    engine: Engine, *, budget_bytes: int, reserved_bytes: int, need: Need, checkpointing: bool
) -> Capacity:
    """Probe training and evaluation; the network's weights are the same before and after.

    Args:
        engine: the network on its device.
        budget_bytes: the memory budget of this rank.
        reserved_bytes: part of it kept for decoding.
        need: how large the micro-batches will be.
        checkpointing: whether the network already recomputes activations.
    """
    with _untouched(engine):
        _run_training(engine, 1, Shape(64, 64))  # first use: kernels are chosen, the optimizer's state is made
        training = _climb(engine, _run_training, budget_bytes, need)
        evaluation = _climb(engine, _run_evaluation, budget_bytes, need)
    return Capacity(
        budget_bytes=budget_bytes,
        reserved_bytes=reserved_bytes,
        memory=_fit_memory(training),
        time=_fit_time(training),
        evaluation_memory=_fit_memory(evaluation),
        checkpointing=checkpointing,
        probes=tuple(training),
    )


def evaluation_limits(engine: Engine, *, budget_bytes: int, reserved_bytes: int, need: Need) -> Limits:
    """The limits of evaluating with a network that is not trained here; arguments as for `measure_training`."""
    _run_evaluation(engine, 1, Shape(64, 64))
    probes = _climb(engine, _run_evaluation, budget_bytes, need)
    capacity = Capacity(
        budget_bytes=budget_bytes,
        reserved_bytes=reserved_bytes,
        memory=_fit_memory(probes),
        time=_fit_time(probes),
        evaluation_memory=_fit_memory(probes),
        checkpointing=False,
        probes=tuple(probes),
    )
    return Limits(
        budget_pixels=capacity.evaluation_pixels,
        launch_pixels=capacity.launch_pixels,
        world_size=engine.fabric.world_size,
    )


def verify_largest(engine: Engine, capacity: Capacity, images: int, canvas: Shape) -> Capacity:
    """Run the largest planned micro-batch once; return the capacity, corrected where the run took more than foreseen.

    Raises:
        BudgetError: it does not fit on the device at all.
    """
    with _untouched(engine):
        probe = _measure(engine, _run_training, images, canvas)
    probes = (*capacity.probes, probe)
    return replace(capacity, probes=probes, memory=_fit_memory(probes))


def _fit_memory(probes: tuple[Probe, ...] | list[Probe]) -> MemoryModel:
    return MemoryModel.fit([probe.pixels for probe in probes], [probe.peak_bytes for probe in probes])


def _fit_time(probes: list[Probe]) -> TimeModel:
    return TimeModel.fit([probe.pixels for probe in probes], [probe.seconds for probe in probes])


def _climb(engine: Engine, run: Run, budget: int, need: Need) -> list[Probe]:
    """Probes of doubling pixels, at least three so that a line can be drawn."""
    probes: list[Probe] = []
    started = time.perf_counter()
    pixels = FIRST_PIXELS
    while len(probes) < 3 or (
        pixels < 2 * need.usual_pixels
        and (pixels < 2 * need.largest_image or time.perf_counter() - started < PROBE_SECONDS)
        and _next_peak(probes) < budget // 2
        and not _is_hopeless(probes, need, budget)
    ):
        side = 256 if pixels <= 1 << 18 else 512
        probes.append(_measure(engine, run, max(1, pixels // side**2), Shape(side, side)))
        pixels *= 2
    return probes


def _is_hopeless(probes: list[Probe], need: Need, budget: int) -> bool:
    """Whether the largest image is so far beyond the budget that a better line would not help."""
    return len(probes) > 5 and _fit_memory(probes).peak_bytes(need.largest_image) > 1.5 * budget


def _next_peak(probes: list[Probe]) -> int:
    """The peak of twice the last probe's pixels, if its last growth goes on."""
    return probes[-1].peak_bytes + 2 * max(0, probes[-1].peak_bytes - probes[-2].peak_bytes)


def _measure(engine: Engine, run: Run, images: int, canvas: Shape) -> Probe:
    meter = PeakMeter(engine.device)
    release_unused()  # what an earlier probe left behind would be counted as fixed
    meter.start()
    seconds = [run(engine, images, canvas)]
    if seconds[0] < LONG_PROBE_S:  # the first run also pays for choosing kernels of this shape
        seconds.append(run(engine, images, canvas))
    return Probe(images, canvas.height, canvas.width, meter.stop(), min(seconds))


def _synthetic(images: int, canvas: Shape) -> PaddedBatch:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, canvas.height, canvas.width, 3), dtype=np.uint8)
    # One image a pixel smaller each way, so that the paths for padding run as well.
    sizes = torch.tensor([canvas] * images)
    sizes[-1] -= 1
    return PaddedBatch(
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2),
        sizes=sizes,
        labels=torch.zeros(images, dtype=torch.int64),
        images=np.arange(images),
    )


def _run_training(engine: Engine, images: int, canvas: Shape) -> float:
    """Seconds of forward and backward; the update, which a step pays once however it is cut, is not timed."""
    batch = _synthetic(images, canvas)
    started = time.perf_counter()
    engine.accumulate(batch, 1 / images)  # returns the loss as a number, so the device has finished
    seconds = time.perf_counter() - started
    engine.update(0.0)
    return seconds


def _run_evaluation(engine: Engine, images: int, canvas: Shape) -> float:
    """Seconds of a forward pass."""
    batch = _synthetic(images, canvas)
    started = time.perf_counter()
    engine.predict(batch)
    return time.perf_counter() - started


@contextmanager
def _untouched(engine: Engine) -> Iterator[None]:
    """Put back weights, running statistics and the optimizer after probe steps."""
    state = {name: value.to("cpu", copy=True) for name, value in engine.model.state_dict().items()}
    try:
        yield
    finally:
        engine.forget_gradients()
        engine.model.load_state_dict(state)
        engine.reset_optimizer()
