"""Probe steps of the real network on this device: memory and time of micro-batches with random pixels.

Probes grow from a small canvas, first twofold, then fourfold as long as the fitted line predicts that they fit. A wide,
a tall and many small images are among them, so that shapes and counts are measured too.

A library that compiles kernels for each new shape holds more and more memory until it has seen most kinds of shapes:
with oneDNN some 60 shapes and 90 MB. So small images of many shapes come first, the growth still to come is
extrapolated, and a probe's peak is what it adds to the settled memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from unsquare.data.loader import PaddedBatch
from unsquare.execution.strategy import Strategy, StrategyName
from unsquare.memory.heap import release_unused
from unsquare.memory.meter import PeakMeter, resident_bytes
from unsquare.memory.model import MemoryModel, TimeModel
from unsquare.network.engine import Engine
from unsquare.runs.memory_profile import Probe, ProbeRange, StrategyProfile
from unsquare.shapes import Shape

PROBING = 4
"""Version of the choice and method of probes; results of other versions are not used."""
FIRST_PIXELS = 1 << 16
WARM_SHAPES = 64
"""Most small shapes that are run first."""
WARM_SECONDS = 5.0
WARM_STRIDE = 4
"""Shapes between two measurements of memory."""
FLAT_BYTES = 1 << 19
"""Growth between two measurements below which memory counts as settled."""
SETTLING_SHAPES = 20.0
"""Shapes in which the growth still to come falls to 1/e; 17 to 25 were measured."""
SHAPED_PIXELS = 1 << 18
"""Pixels of the wide and the tall probe; the probe of many small images has twice as many."""
STRIDE = 4
"""How many times larger each probe is than the one before, after the first three."""

LONG_PROBE_S = 2.0
"""A probe that takes longer is run once."""
SMALL = Shape(96, 96)
"""A canvas that is run before measuring, so that the optimizer has its state."""

ProbeStep = Callable[[Engine, int, Shape, Strategy], float]
"""Runs a micro-batch: the engine, the number of images, the canvas and the strategy; returns seconds."""


def train_probe(engine: Engine, images: int, canvas: Shape, strategy: Strategy) -> float:
    """Seconds of forward and backward; the update is not timed, since each step has one however it is cut."""
    labels = engine.objective.no_labels(images, engine.model.head.out_features)
    batch = replace(synthetic_batch(images, canvas), labels=labels)
    for parameter in engine.model.parameters():  # as in later micro-batches of a step, which add to gradients
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    started = time.perf_counter()
    engine.accumulate(batch, 1 / images, strategy)  # returns the loss as a number, so the device has finished
    seconds = time.perf_counter() - started
    engine.update(0.0)
    return seconds


def evaluate_probe(engine: Engine, images: int, canvas: Shape, strategy: Strategy) -> float:
    """Seconds of a forward pass."""
    batch = synthetic_batch(images, canvas)
    started = time.perf_counter()
    engine.predict(batch, strategy)
    return time.perf_counter() - started


def synthetic_batch(images: int, canvas: Shape) -> PaddedBatch:
    """A micro-batch of noise; its last image is one pixel smaller each way, so that padding is computed as well."""
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


def warm_up(engine: Engine, run: ProbeStep, strategy: Strategy) -> int:
    """Run small images of new shapes, so that kernels are chosen and the optimizer has its state.

    Returns:
        The bytes that the process will hold between micro-batches once memory has settled; 0 on devices other than the
        CPU, whose allocators hold no kernels.
    """
    started, rng = time.perf_counter(), np.random.default_rng(0)
    held: list[int] = []
    while len(held) * WARM_STRIDE < WARM_SHAPES and (
        len(held) < 3 or (held[-1] - held[-2] > FLAT_BYTES and time.perf_counter() - started < WARM_SECONDS)
    ):
        for height, width in rng.integers(48, 145, (WARM_STRIDE, 2)).tolist():
            run(engine, 1, Shape(height, width), strategy)
        held.append(held_bytes(engine))
    return held[-1] + _still_to_come(held)


def _still_to_come(held: list[int]) -> int:
    """How much memory that settles exponentially will still grow, from its growth over the later half of
    measurements."""
    half = len(held) // 2
    grown = max(0, held[-1] - held[-1 - half])
    return int(grown / math.expm1(half * WARM_STRIDE / SETTLING_SHAPES))


def held_bytes(engine: Engine) -> int:
    """Bytes that the process holds between micro-batches; 0 on devices other than the CPU."""
    release_unused()  # else freed memory of an earlier probe would count as fixed
    return resident_bytes() if engine.device.type == "cpu" else 0


def measure(
    engine: Engine, run: ProbeStep, images: int, canvas: Shape, strategy: Strategy, settled_bytes: int | None = None
) -> Probe:
    """The peak memory and the time of a micro-batch.

    Args:
        engine: the network on its device.
        run: the kind of probe.
        images: number of images in the micro-batch.
        canvas: of the micro-batch.
        strategy: how it is run.
        settled_bytes: memory to which the micro-batch's growth is added; None takes what is held now.
    """
    meter = PeakMeter(engine.device)
    held = held_bytes(engine)
    meter.start()
    seconds = [run(engine, images, canvas, strategy)]
    if seconds[0] < LONG_PROBE_S:  # the first run also chooses kernels for this shape
        held = held_bytes(engine)
        meter.start()
        seconds.append(run(engine, images, canvas, strategy))
    peak = meter.stop() - held + (held if settled_bytes is None else settled_bytes)
    return Probe(images, canvas.height, canvas.width, peak, min(seconds))


def climb(
    engine: Engine,
    run: ProbeStep,
    strategy: Strategy,
    *,
    settled_bytes: int,
    budget: int,
    probe_range: ProbeRange,
    seconds: float,
    first_pixels: int = FIRST_PIXELS,
) -> list[Probe]:
    """Probes of growing size, at least two, three where the budget holds them, and some of other shapes.

    Args:
        engine: the network on its device.
        run: the kind of probe.
        strategy: how it is run.
        settled_bytes: memory to which each probe's growth is added.
        budget: bytes; probes after the third stay below three quarters of it.
        probe_range: the pixels that probes should cover.
        seconds: after this time no further probe starts.
        first_pixels: pixels of the first probe.
    """
    started = time.perf_counter()
    probes: list[Probe] = []
    pixels = first_pixels
    while len(probes) < 2 or (
        _expected_peak(probes, pixels) < (budget if len(probes) < 3 else 3 * budget // 4)
        and (
            len(probes) < 3
            or (
                pixels < 2 * probe_range.usual_pixels
                and time.perf_counter() - started + _expected_s(probes, pixels) < seconds
            )
        )
    ):
        canvas = _canvas(pixels)
        probes.append(measure(engine, run, max(1, pixels // canvas.pixels), canvas, strategy, settled_bytes))
        pixels *= 2 if len(probes) < 3 else STRIDE
    if first_pixels == FIRST_PIXELS:
        probes += _shaped(engine, run, strategy, settled_bytes)
    return probes


def _canvas(pixels: int) -> Shape:
    """The canvas of a probe: single images and several images take turns as pixels double."""
    side = 1 << (pixels.bit_length() - 1) // 2
    return Shape(side, side) if side * side == pixels else Shape(side, min(side, 512))


def _shaped(engine: Engine, run: ProbeStep, strategy: Strategy, settled_bytes: int) -> list[Probe]:
    shapes = [(1, Shape(128, SHAPED_PIXELS // 128)), (1, Shape(SHAPED_PIXELS // 128, 128))]
    shapes.append((2 * SHAPED_PIXELS // 96**2, Shape(96, 96)))
    return [measure(engine, run, images, canvas, strategy, settled_bytes) for images, canvas in shapes]


def _expected_peak(probes: list[Probe], pixels: int) -> float:
    """The expected peak of a probe of this many pixels, from the growth between the last two."""
    before, last = probes[-2:]
    per_pixel = max(0, last.peak_bytes - before.peak_bytes) / (last.pixels - before.pixels)
    return last.peak_bytes + per_pixel * (pixels - last.pixels)


def _expected_s(probes: list[Probe], pixels: int) -> float:
    """The expected seconds of such a probe, its second run included."""
    seconds = probes[-1].seconds * pixels / probes[-1].pixels
    return seconds if seconds >= LONG_PROBE_S else 2 * seconds


def fit_memory(probes: list[Probe] | tuple[Probe, ...], strategy: Strategy) -> MemoryModel:
    """The plane through the peaks of a strategy's probes.

    With tiling, a tile's memory is constant and the maps between parts grow, so that the peak is the largest of several
    lines.
    """
    images, peaks = [probe.images for probe in probes], [probe.peak_bytes for probe in probes]
    return MemoryModel.fit([probe.pixels for probe in probes], images, peaks, bends=strategy.tiles)


def strategy_profile(name: StrategyName, strategy: Strategy, probes: list[Probe]) -> StrategyProfile:
    """A strategy's profile from its probes."""
    return StrategyProfile(
        name=name,
        strategy=strategy,
        memory=fit_memory(probes, strategy),
        time=fit_time(probes),
        probes=tuple(probes),
    )


def fit_time(probes: list[Probe]) -> TimeModel:
    """The line through probes' times."""
    return TimeModel.fit([probe.pixels for probe in probes], [probe.seconds for probe in probes])


@contextmanager
def weights_restored(engine: Engine) -> Iterator[int]:
    """Restore weights, running statistics and the optimizer after probes.

    Yields:
        The bytes of the copy that is held meanwhile, where peaks of this device count it.
    """
    state = {name: value.to("cpu", copy=True) for name, value in engine.model.state_dict().items()}
    try:
        yield sum(value.nbytes for value in state.values()) if engine.device.type == "cpu" else 0
    finally:
        engine.forget_gradients()
        engine.model.load_state_dict(state)
        engine.reset_optimizer()
