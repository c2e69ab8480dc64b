"""Probe steps of the real network on this device: what micro-batches of made-up pixels take.

Probes grow by doubling from a small canvas, so that none is ever much larger than one known to fit. A wide, a tall and
many small images are among them, so that shapes and counts are seen too. Before the first, small images of many shapes
fill what libraries keep for each (compiled kernels), which is held from then on and must not look like growth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from unsquare.data.loader import PaddedBatch
from unsquare.memory.heap import release_unused
from unsquare.memory.meter import PeakMeter, resident_bytes
from unsquare.memory.model import MemoryModel, TimeModel
from unsquare.memory.way import Way
from unsquare.shapes import Shape, Sizes
from unsquare.training.engine import Engine

FIRST_PIXELS = 1 << 16
WARM_SHAPES = 32
"""Small shapes run first, at the most; libraries' caches are full after about twenty."""
WARM_SECONDS = 4.0
FLAT_BYTES = 1 << 20
"""Growth over four shapes below which the caches count as full."""
SHAPED_PIXELS = 1 << 19
"""Pixels of the probes that are wide, tall, and many small ones."""

LONG_PROBE_S = 2.0
"""A probe that takes longer is run once."""

Run = Callable[[Engine, int, Shape, Way], float]
"""Runs a micro-batch of so many images on a canvas in a way; returns seconds."""


@dataclass(frozen=True)
class Need:
    """How large the micro-batches will be: probes reach that far, because short lines predict badly."""

    largest_image: int
    """Pixels of the largest image."""
    usual_pixels: int
    """Pixels that hardly any micro-batch will have more of."""
    smallest_image: int
    """Pixels of the smallest image: how many a micro-batch may have."""
    most_images: int | None
    """Images that no micro-batch has more of; None where memory alone bounds them."""

    @classmethod
    def of(cls, sizes: Sizes, step_images: int, *, most_images: int | None = None) -> Need:
        """The need of images of these shapes, (N, 2), of which a step takes so many."""
        pixels = sizes.prod(axis=1)
        usual = int(max(pixels.max(), pixels.mean() * step_images))
        return cls(int(pixels.max()), usual, int(pixels.min()), most_images)


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


def run_training(engine: Engine, images: int, canvas: Shape, way: Way) -> float:
    """Seconds of forward and backward; the update, which a step pays once however it is cut, is not timed."""
    batch = synthetic(images, canvas)
    started = time.perf_counter()
    engine.accumulate(batch, 1 / images, way)  # returns the loss as a number, so the device has finished
    seconds = time.perf_counter() - started
    engine.update(0.0)
    return seconds


def run_evaluation(engine: Engine, images: int, canvas: Shape, way: Way) -> float:
    """Seconds of a forward pass."""
    batch = synthetic(images, canvas)
    started = time.perf_counter()
    engine.predict(batch, way)
    return time.perf_counter() - started


def synthetic(images: int, canvas: Shape) -> PaddedBatch:
    """A micro-batch of noise, its last image a pixel smaller each way, so that the paths for padding run as well."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, canvas.height, canvas.width, 3), dtype=np.uint8)
    sizes = torch.tensor([canvas] * images)
    sizes[-1] -= 1
    return PaddedBatch(
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2),
        sizes=sizes,
        labels=torch.zeros(images, dtype=torch.int64),
        images=np.arange(images),
    )


def warm_up(engine: Engine, run: Run, way: Way) -> None:
    """Run small images of new shapes until memory no longer grows: kernels are chosen, the optimizer has its state."""
    started, rng = time.perf_counter(), np.random.default_rng(0)
    before = 0
    for number in range(WARM_SHAPES):
        height, width = rng.integers(64, 161, 2)
        run(engine, 1, Shape(int(height), int(width)), way)
        if number % 4 == 3:
            release_unused()
            now = resident_bytes()
            if now - before < FLAT_BYTES or time.perf_counter() - started > WARM_SECONDS:
                return
            before = now


def measure(engine: Engine, run: Run, images: int, canvas: Shape, way: Way) -> Probe:
    """A micro-batch's peak and time."""
    meter = PeakMeter(engine.device)
    release_unused()  # what an earlier probe left behind would be counted as fixed
    meter.start()
    seconds = [run(engine, images, canvas, way)]
    if seconds[0] < LONG_PROBE_S:  # the first run also pays for choosing kernels of this shape
        seconds.append(run(engine, images, canvas, way))
    return Probe(images, canvas.height, canvas.width, meter.stop(), min(seconds))


def climb(
    engine: Engine, run: Run, way: Way, *, budget: int, need: Need, seconds: float, first_pixels: int = FIRST_PIXELS
) -> list[Probe]:
    """Probes of doubling pixels, at least three so that a line can be drawn, and some of other shapes.

    Args:
        engine: the network on its device.
        run: what is probed.
        way: how it is run.
        budget: bytes; half of it bounds the probes.
        need: pixels beyond which no probe tells anything.
        seconds: after so long no further probe starts.
        first_pixels: of the first.
    """
    started = time.perf_counter()
    probes: list[Probe] = []
    pixels = first_pixels
    while len(probes) < 3 or (
        pixels < 2 * need.usual_pixels
        and time.perf_counter() - started + 3 * probes[-1].seconds < seconds
        and _next_peak(probes) < budget // 2
    ):
        canvas = _canvas(pixels)
        probes.append(measure(engine, run, max(1, pixels // canvas.pixels), canvas, way))
        pixels *= 2
        if pixels == SHAPED_PIXELS and first_pixels == FIRST_PIXELS:
            probes += _shaped(engine, run, way)
    return probes


def _canvas(pixels: int) -> Shape:
    """Single images and several take turns as pixels double."""
    side = 1 << (pixels.bit_length() - 1) // 2
    return Shape(side, side) if side * side == pixels else Shape(side, min(side, 512))


def _shaped(engine: Engine, run: Run, way: Way) -> list[Probe]:
    shapes = [(1, Shape(128, SHAPED_PIXELS // 128)), (1, Shape(SHAPED_PIXELS // 128, 128))]
    shapes.append((SHAPED_PIXELS // 96**2, Shape(96, 96)))
    return [measure(engine, run, images, canvas, way) for images, canvas in shapes]


def _next_peak(probes: list[Probe]) -> int:
    """The peak of twice the last probe's pixels, if its last growth goes on."""
    doubled = sorted(probes, key=lambda probe: probe.pixels)[-2:]
    return doubled[1].peak_bytes + 2 * max(0, doubled[1].peak_bytes - doubled[0].peak_bytes)


def fit_memory(probes: list[Probe] | tuple[Probe, ...]) -> MemoryModel:
    """The plane through probes' peaks."""
    return MemoryModel.fit([p.pixels for p in probes], [p.images for p in probes], [p.peak_bytes for p in probes])


def fit_time(probes: list[Probe] | tuple[Probe, ...]) -> TimeModel:
    """The line through probes' times."""
    return TimeModel.fit([probe.pixels for probe in probes], [probe.seconds for probe in probes])


@contextmanager
def untouched(engine: Engine) -> Iterator[None]:
    """Put back weights, running statistics and the optimizer after probe steps."""
    state = {name: value.to("cpu", copy=True) for name, value in engine.model.state_dict().items()}
    try:
        yield
    finally:
        engine.forget_gradients()
        engine.model.load_state_dict(state)
        engine.reset_optimizer()
