"""Probe steps of the real network on this device: what micro-batches of made-up pixels take.

Probes grow from a small canvas, by doubling and then fourfold where the line through them says that there is room. A
wide, a tall and many small images are among them, so that shapes and counts are seen too.

A library that compiles kernels for each shape it meets holds more and more, until it has met most kinds of them: with
oneDNN some 60 shapes and 90 MB. So small images of many shapes come first; what is still to come after them is worked
out, and a probe counts as what it adds to memory that has settled.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
"""Changes when probes are chosen or measured otherwise, so that what earlier ones showed is not used."""
FIRST_PIXELS = 1 << 16
WARM_SHAPES = 64
"""Small shapes run first, at the most."""
WARM_SECONDS = 5.0
WARM_STRIDE = 4
"""Shapes between two looks at the memory."""
FLAT_BYTES = 1 << 19
"""Growth between two looks below which memory counts as settled."""
SETTLING_SHAPES = 20.0
"""Shapes in which what is still to come falls to 1/e of it; 17 to 25 were measured."""
SHAPED_PIXELS = 1 << 18
"""Pixels of the probes that are wide and tall; the one of many small images has twice as many."""
STRIDE = 4
"""How many times larger a probe is than the one before, once there are three."""

LONG_PROBE_S = 2.0
"""A probe that takes longer is run once."""
SMALL = Shape(96, 96)
"""A canvas to run before what is measured, for the optimizer to have its state."""

ProbeStep = Callable[[Engine, int, Shape, Strategy], float]
"""Runs a micro-batch: the engine, the number of images, the canvas and the strategy; returns seconds."""


def train_probe(engine: Engine, images: int, canvas: Shape, strategy: Strategy) -> float:
    """Seconds of forward and backward; the update, which a step pays once however it is cut, is not timed."""
    batch = synthetic_batch(images, canvas)
    for parameter in engine.model.parameters():  # as in a step's later micro-batches, which add to gradients
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


def warm_up(engine: Engine, run: ProbeStep, strategy: Strategy) -> int:
    """Run small images of new shapes: kernels are chosen, the optimizer has its state.

    Returns:
        The bytes that the process will hold between micro-batches once memory has settled; 0 on another device than
        the CPU, whose allocator holds no kernels.
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
    """What memory that settles exponentially will still grow by, from its growth over the later half of the looks."""
    half = len(held) // 2
    grown = max(0, held[-1] - held[-1 - half])
    return int(grown / math.expm1(half * WARM_STRIDE / SETTLING_SHAPES))


def held_bytes(engine: Engine) -> int:
    """What the process holds between micro-batches; 0 on another device than the CPU."""
    release_unused()  # what an earlier probe left behind would be counted as fixed
    return resident_bytes() if engine.device.type == "cpu" else 0


def measure(
    engine: Engine, run: ProbeStep, images: int, canvas: Shape, strategy: Strategy, settled_bytes: int | None = None
) -> Probe:
    """A micro-batch's peak and time.

    Args:
        engine: the network on its device.
        run: what is probed.
        images: of the micro-batch.
        canvas: of the micro-batch.
        strategy: how it is run.
        settled_bytes: the peak is what the micro-batch adds to this; None takes what is held now.
    """
    meter = PeakMeter(engine.device)
    held = held_bytes(engine)
    meter.start()
    seconds = [run(engine, images, canvas, strategy)]
    if seconds[0] < LONG_PROBE_S:  # the first run also pays for choosing kernels of this shape
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
    """Probes of growing pixels, three for a line where the budget holds them, and some of other shapes.

    Args:
        engine: the network on its device.
        run: what is probed.
        strategy: how it is run.
        settled_bytes: what peaks add to.
        budget: bytes; three quarters of it bound the probes after the third.
        probe_range: pixels beyond which no probe tells anything.
        seconds: after so long no further probe starts.
        first_pixels: of the first.
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
    """Single images and several take turns as pixels double."""
    side = 1 << (pixels.bit_length() - 1) // 2
    return Shape(side, side) if side * side == pixels else Shape(side, min(side, 512))


def _shaped(engine: Engine, run: ProbeStep, strategy: Strategy, settled_bytes: int) -> list[Probe]:
    shapes = [(1, Shape(128, SHAPED_PIXELS // 128)), (1, Shape(SHAPED_PIXELS // 128, 128))]
    shapes.append((2 * SHAPED_PIXELS // 96**2, Shape(96, 96)))
    return [measure(engine, run, images, canvas, strategy, settled_bytes) for images, canvas in shapes]


def _expected_peak(probes: list[Probe], pixels: int) -> float:
    """The peak of a probe of so many pixels, if the growth between the last two goes on."""
    before, last = probes[-2:]
    per_pixel = max(0, last.peak_bytes - before.peak_bytes) / (last.pixels - before.pixels)
    return last.peak_bytes + per_pixel * (pixels - last.pixels)


def _expected_s(probes: list[Probe], pixels: int) -> float:
    """How long such a probe would take, its second run included."""
    seconds = probes[-1].seconds * pixels / probes[-1].pixels
    return seconds if seconds >= LONG_PROBE_S else 2 * seconds


def fit_memory(probes: list[Probe] | tuple[Probe, ...], strategy: Strategy) -> MemoryModel:
    """The plane through the peaks of a strategy's probes.

    With tiling a tile's memory is constant and what is passed between parts grows, so that the peak is the largest of
    several lines.
    """
    images, peaks = [probe.images for probe in probes], [probe.peak_bytes for probe in probes]
    return MemoryModel.fit([probe.pixels for probe in probes], images, peaks, bends=strategy.tiles)


def strategy_profile(name: StrategyName, strategy: Strategy, probes: list[Probe]) -> StrategyProfile:
    """What probes show of a strategy."""
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
    """Put back weights, running statistics and the optimizer after probe steps.

    Yields:
        The bytes of the copy that is held meanwhile, where peaks of the engine's device count them.
    """
    state = {name: value.to("cpu", copy=True) for name, value in engine.model.state_dict().items()}
    try:
        yield sum(value.nbytes for value in state.values()) if engine.device.type == "cpu" else 0
    finally:
        engine.forget_gradients()
        engine.model.load_state_dict(state)
        engine.reset_optimizer()
