"""Measures the ladder of a network on this device: rung after rung, until the largest image fits."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from unsquare.errors import BudgetError, ExactError
from unsquare.execution.cuts import Estimate, recomputed, streamed
from unsquare.execution.offload import can_offload
from unsquare.execution.strategy import PLAIN, RUNGS, RungName, Way
from unsquare.memory import heap
from unsquare.memory.cache import MeasurementCache
from unsquare.memory.meter import resident_bytes
from unsquare.network.engine import Engine, ShortageError
from unsquare.shapes import Shape
from unsquare.torchvision_guard import import_timm
from unsquare.training.capacity import Capacity, MeasuredRung
from unsquare.training.probing import (
    FIRST_PIXELS,
    PROBING,
    STRIDE,
    Need,
    Probe,
    Run,
    climb,
    fit_memory,
    fit_time,
    held_bytes,
    run_evaluation,
    run_training,
    untouched,
    warm_up,
)
from unsquare.version import __version__

timm = import_timm()

Kind = Literal["train", "evaluate"]

PROBE_SECONDS: dict[Kind, float] = {"train": 18.0, "evaluate": 3.0}
"""After so long no further probe of a rung starts: lines need no more, and a start should not take minutes."""
FARTHEST_PIXELS = 1 << 26
"""No probe is larger."""
PIECES_PROBED = 4
"""Pieces of the smallest image by which streaming is probed."""
ROOM = 1.2
"""How much more than estimated a streamed way is expected to take at the most."""
HOPEFUL = 1.5
"""Where no way is estimated to fit, the best is measured if it is estimated to take no more than so many times."""
TRIES = 3
"""Streamed ways that are measured, each with less memory than the one before, until the largest image fits."""
RETIMED_PIXELS = 1 << 20
"""Probes up to which times are taken anew where the heap keeps what is freed."""
SMALL = Shape(96, 96)
"""A canvas to run before what is measured, for the optimizer to have its state."""
LAUNCHES = 32
"""A heap that keeps what is freed halves the budget; launches so many times smaller than that do not show."""

_RUNS: dict[Kind, Run] = {"train": run_training, "evaluate": run_evaluation}


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Within what the ladder is built."""

    budget_bytes: int
    """The memory budget of this rank."""
    reserved_bytes: int
    """Part of it kept for decoding."""
    lowest: RungName = "plain"
    """The rung that all micro-batches take."""
    highest: RungName = "stream"
    """The rung above which nothing climbs."""
    may_use_bf16: bool = False
    """Whether images that do not fit may be computed in bf16 although the run is not."""
    may_keep: bool = False
    """Whether the heap may keep what is freed, where half the budget is enough."""


class Prober:
    """Runs probes, or remembers what they showed.

    Args:
        engine: the network on its device.
        identity: what measurements depend on beside the engine's device: the network and its optimizer.
        cache: where they are kept.
    """

    def __init__(self, engine: Engine, identity: Mapping[str, Any], cache: MeasurementCache) -> None:
        self.engine = engine
        self._identity = {**identity, **_machine(engine)}
        self._cache = cache
        heap.return_freed()
        self._settled: dict[Kind, int] = {}
        self.copy_bytes = 0
        """Of a copy of the weights that a run does not hold, but these measurements do."""
        self._base = held_bytes(engine)

    def rung(
        self, kind: Kind, name: RungName, way: Way, need: Need, budget: int, first_pixels: int = FIRST_PIXELS
    ) -> MeasuredRung:
        """A rung, from its probes."""
        probes = self._probes(kind, way, need, budget, first_pixels)
        return MeasuredRung(
            name=name, way=way, memory=fit_memory(probes, way), time=fit_time(probes), probes=tuple(probes)
        )

    def _probes(self, kind: Kind, way: Way, need: Need, budget: int, first_pixels: int) -> list[Probe]:
        # Rounded, so that another dataset or a budget that is a little different finds what is known.
        far = min(1 << (need.usual_pixels - 1).bit_length(), FARTHEST_PIXELS)
        half = 1 << (budget.bit_length() - 1)
        key = {
            **self._identity,
            "probing": PROBING,
            "kind": kind,
            "trained": kind == "train" or bool(self.engine.optimizer.state),  # which is held in evaluation, too
            "way": way.to_dict(),
            "far": far,
            "half": half,
            "first": first_pixels,
        }
        growth = self._cache.get(key)
        if growth is None:
            if kind not in self._settled:
                self._settled[kind] = warm_up(self.engine, _RUNS[kind], PLAIN) - self.copy_bytes
            found = climb(
                self.engine,
                _RUNS[kind],
                way,
                settled_bytes=self._settled[kind],
                budget=half,
                need=replace(need, usual_pixels=far),
                seconds=PROBE_SECONDS[kind],
                first_pixels=first_pixels,
            )
            growth = [asdict(replace(probe, peak_bytes=probe.peak_bytes - self._base)) for probe in found]
            self._cache.put(key, growth)
        probes = [Probe(**each) for each in growth]
        return [replace(probe, peak_bytes=probe.peak_bytes + self._base) for probe in probes]

    def timed_again(self, kind: Kind, rung: MeasuredRung) -> list[Probe]:
        """A rung's smaller probes with their times as the heap is now, memory left as it was."""
        probes = [probe for probe in rung.probes if probe.pixels <= RETIMED_PIXELS]
        shapes = [(probe.images, probe.height, probe.width) for probe in probes]
        key = {**self._identity, "kind": kind, "kept": rung.way.to_dict(), "shapes": shapes}
        seconds = self._cache.get(key)
        if seconds is None:
            seconds = []
            for images, height, width in shapes:
                canvas = Shape(height, width)
                seconds.append(min(_RUNS[kind](self.engine, images, canvas, rung.way) for _ in range(2)))
            self._cache.put(key, seconds)
        return [replace(probe, seconds=value) for probe, value in zip(probes, seconds)]


def measure_training(prober: Prober, frame: Frame, need: Need, evaluation_need: Need) -> Capacity:
    """Probe training and evaluation, as many rungs as the largest image needs; the weights stay as they were.

    Args:
        prober: runs the probes.
        frame: budget, and which rungs may be taken.
        need: of training.
        evaluation_need: of evaluation.
    """
    engine = prober.engine
    with untouched(engine) as prober.copy_bytes:
        engine.model.train()
        rungs = _climb_ladder(prober, "train", frame, need)
        run_training(engine, 1, SMALL, PLAIN)  # evaluation between epochs finds the optimizer's state held
        engine.model.eval()
        evaluation = _climb_ladder(prober, "evaluate", frame, evaluation_need)
        capacity = _capacity(engine, frame, need, rungs, evaluation, evaluation_need)
        return _keeping(prober, "train", capacity, need) if frame.may_keep else capacity


def measure_evaluation(prober: Prober, frame: Frame, need: Need) -> Capacity:
    """Probe evaluation with a network that is not trained here; the capacity's training rungs are the same."""
    prober.engine.model.eval()
    rungs = _climb_ladder(prober, "evaluate", frame, need)
    capacity = _capacity(prober.engine, frame, need, rungs, rungs, need)
    return _keeping(prober, "evaluate", capacity, need) if frame.may_keep else capacity


def _capacity(
    engine: Engine,
    frame: Frame,
    need: Need,
    rungs: list[MeasuredRung],
    evaluation: list[MeasuredRung],
    evaluation_need: Need,
) -> Capacity:
    return Capacity(
        budget_bytes=frame.budget_bytes,
        reserved_bytes=frame.reserved_bytes,
        heap="return",
        map_elements=engine.model.map_elements(),
        need=need,
        evaluation_need=evaluation_need,
        rungs=tuple(rungs),
        evaluation_rungs=tuple(evaluation),
    )


def _climb_ladder(prober: Prober, kind: Kind, frame: Frame, need: Need) -> list[MeasuredRung]:
    """Rungs from the lowest allowed to the first that holds the largest image, or the highest allowed."""
    rungs: list[MeasuredRung] = []
    names = RUNGS[RUNGS.index(frame.lowest) : RUNGS.index(frame.highest) + 1]
    if kind == "evaluate":  # nothing is kept for a backward pass, so that the rungs between save nothing
        names = tuple(name for name in RUNGS if name == "plain" or (name == "stream" and name == frame.highest))
    for name in names:
        for way, first_pixels in _ways(prober.engine, name, frame, need, rungs):
            try:
                found = prober.rung(kind, name, way, need, frame.budget_bytes, first_pixels)
            except ShortageError:  # a way that takes more than was estimated
                heap.release_unused()
                continue
            rungs = [*(rung for rung in rungs if rung.name != name), found]  # a later try takes less than one before
            capacity = _capacity(prober.engine, frame, need, rungs, rungs, need)
            if capacity.training.largest_pixels >= need.largest_image or not capacity.holds_anything:
                return rungs
    if not rungs:
        raise BudgetError(
            f"The network must run by one of the rungs {', '.join(names)}, but can by none of them within the budget; "
            "leave --lowest-rung out, or choose a network that is a chain of blocks, such as resnet50."
        )
    return rungs


def _ways(
    engine: Engine, name: RungName, frame: Frame, need: Need, below: list[MeasuredRung]
) -> Iterator[tuple[Way, int]]:
    """The ways to try for a rung, and the pixels of their first probe; none where the network cannot be run so."""
    bf16 = frame.may_use_bf16 and name != "plain"
    if name == "plain":
        yield PLAIN, FIRST_PIXELS
    elif name == "bf16":
        if bf16:
            yield replace(PLAIN, bf16=True), FIRST_PIXELS
    else:
        try:
            chain = engine.model.chain()
        except ExactError:
            return
        with engine.fabric.autocast():
            weights = chain.weigh()
        if name == "stream":
            yield from _streamed_ways(streamed(weights), frame, need, below, bf16)
        elif name == "checkpoint" or can_offload(engine.device):
            yield replace(recomputed(weights, offload=name == "offload"), bf16=bf16), FIRST_PIXELS


def _streamed_ways(
    estimates: list[Estimate], frame: Frame, need: Need, below: list[MeasuredRung], bf16: bool
) -> Iterator[tuple[Way, int]]:
    """The quickest way that should hold the largest image, then others that take less."""
    fixed = min((rung.memory.fixed_bytes for rung in below), default=resident_bytes())
    room = frame.budget_bytes - frame.reserved_bytes - fixed
    for _ in range(TRIES):
        fitting = [each for each in estimates if _total(each, need.largest_image) * ROOM <= room]
        if not fitting and estimates:
            best = min(estimates, key=lambda each: _total(each, need.largest_image))
            fitting = [best] if _total(best, need.largest_image) <= HOPEFUL * room else []
        if not fitting:
            return
        quickest = min(each.work for each in fitting)
        chosen = min((each for each in fitting if each.work <= 1.02 * quickest), key=lambda each: each.piece_bytes)
        side = max(chosen.way.segments[0].piece_side, 256)
        wished = min(PIECES_PROBED * side * side, need.largest_image // STRIDE, FARTHEST_PIXELS)
        yield replace(chosen.way, bf16=bf16), max(1 << wished.bit_length() // 2 * 2, FIRST_PIXELS)
        total = _total(chosen, need.largest_image)
        estimates = [each for each in estimates if _total(each, need.largest_image) < 0.8 * total]


def _total(estimate: Estimate, pixels: int) -> float:
    return estimate.bytes_per_pixel * pixels + estimate.piece_bytes


def _keeping(prober: Prober, kind: Kind, capacity: Capacity, need: Need) -> Capacity:
    """The capacity with a heap that keeps what is freed, if it still holds what is worth holding; timed anew."""
    keeping = replace(capacity, heap="keep")
    held = keeping.training.held
    enough = max(need.largest_image, min(need.usual_pixels, LAUNCHES * capacity.launch_pixels))
    evaluated = keeping.evaluation.held[0] >= capacity.evaluation_need.largest_image
    tunable = prober.engine.device.type == "cpu" and heap.is_tunable()
    if not tunable or len(capacity.rungs) > 1 or held[0] < enough or not evaluated:
        return capacity
    heap.keep_freed()
    base = keeping.rungs[0]
    return replace(keeping, rungs=(replace(base, time=fit_time(prober.timed_again(kind, base))),))


def _machine(engine: Engine) -> dict[str, Any]:
    """What of the device and the libraries decides memory and time."""
    return {
        "unsquare": __version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "network": type(engine.model).__name__,
        "huge_pages": os.environ.get("THP_MEM_ALLOC_ENABLE"),
        "device": device_name(engine.device),
        "threads": torch.get_num_threads(),
        "processes": engine.num_local_ranks,
        "precision": str(engine.fabric.strategy.precision.precision),
    }


def device_name(device: torch.device) -> str:
    """The kind of device, and which."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return f"{device.type}: {name}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
