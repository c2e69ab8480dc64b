"""Measures the execution strategies of a network on this device, one fallback after the other, until the largest image
fits."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from unsquare.capacity.probes import (
    FIRST_PIXELS,
    PROBING,
    SMALL,
    STRIDE,
    ProbeStep,
    climb,
    evaluate_probe,
    fit_time,
    held_bytes,
    strategy_profile,
    train_probe,
    warm_up,
    weights_restored,
)
from unsquare.errors import BudgetError, ExactError
from unsquare.execution.cuts import Estimate, checkpointed, tiled
from unsquare.execution.offload import can_offload
from unsquare.execution.strategy import PLAIN, STRATEGY_NAMES, Strategy, StrategyName
from unsquare.memory import heap
from unsquare.memory.cache import MeasurementCache
from unsquare.memory.meter import resident_bytes
from unsquare.network.engine import Engine, ShortageError
from unsquare.runs.memory_profile import MemoryProfile, Probe, ProbeRange, StrategyProfile
from unsquare.shapes import Shape
from unsquare.torchvision_guard import import_timm
from unsquare.version import __version__

timm = import_timm()

Kind = Literal["train", "evaluate"]

PROBE_SECONDS: dict[Kind, float] = {"train": 18.0, "evaluate": 3.0}
"""After this time no further probe of a strategy starts: the lines fitted need no more, and a start should take
seconds."""
FARTHEST_PIXELS = 1 << 26
"""No probe has more pixels."""
TILES_PROBED = 4
"""Tiles of the smallest image with which tiling is probed."""
MARGIN = 1.2
"""How much more than estimated a tiled strategy is expected to take at most."""
HOPEFUL = 1.5
"""Where no tiled strategy is estimated to fit, the best is measured if its estimate is at most this many times the
available memory."""
TRIES = 3
"""Tiled strategies that are measured, each with less memory than the one before, until the largest image fits."""
RETIMED_PIXELS = 1 << 20
"""Probes of up to this many pixels are timed again where the allocator keeps freed memory."""
LAUNCHES = 32
"""Caching in the allocator halves the budget, which costs nothing while a micro-batch takes this many launches of
time."""

_STEPS: dict[Kind, ProbeStep] = {"train": train_probe, "evaluate": evaluate_probe}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The micro-batches that memory is measured for, and the memory reserved for other uses."""

    training: ProbeRange | None
    """None where nothing is trained."""
    evaluation: ProbeRange
    budget_bytes: int
    """The memory budget of this rank."""
    reserved_bytes: int = 0
    """Part of it reserved for decoding."""
    least: StrategyName = "plain"
    """The strategy of micro-batches that fit."""
    most: StrategyName = "tile"
    """The last fallback."""
    may_use_bf16: bool = False
    """Whether images that do not fit may be computed in bf16 where the run's own precision is higher."""
    may_keep_freed: bool = False
    """Whether the allocator may keep freed memory, where half the budget is enough."""


class Prober:
    """Runs probes, or reads their results from the cache.

    Args:
        engine: the network on its device.
        identity: what measurements depend on besides the engine's device: the network and its optimizer.
        cache: where results are kept.
    """

    def __init__(self, engine: Engine, identity: Mapping[str, Any], cache: MeasurementCache) -> None:
        self.engine = engine
        self._identity = {**identity, **_machine(engine)}
        self._cache = cache
        heap.return_freed()
        self._settled: dict[Kind, int] = {}
        self.copy_bytes = 0
        """Bytes of a copy of the weights that is held while measuring, but not in a run."""
        self._base = held_bytes(engine)

    def probe(
        self, kind: Kind, strategy: Strategy, probe_range: ProbeRange, budget: int, first_pixels: int
    ) -> list[Probe]:
        """Probes of a strategy, the first with `first_pixels`."""
        # Rounded, so that another dataset or a slightly different budget finds earlier results.
        far = min(1 << (probe_range.usual_pixels - 1).bit_length(), FARTHEST_PIXELS)
        half = 1 << (budget.bit_length() - 1)
        key = {
            **self._identity,
            "probing": PROBING,
            "kind": kind,
            "trained": kind == "train" or bool(self.engine.optimizer.state),  # its state is held in evaluation as well
            "strategy": strategy.to_dict(),
            "far": far,
            "half": half,
            "first": first_pixels,
        }
        growth = self._cache.get(key)
        if growth is None:
            if kind not in self._settled:
                self._settled[kind] = warm_up(self.engine, _STEPS[kind], PLAIN) - self.copy_bytes
            found = climb(
                self.engine,
                _STEPS[kind],
                strategy,
                settled_bytes=self._settled[kind],
                budget=half,
                probe_range=replace(probe_range, usual_pixels=far),
                seconds=PROBE_SECONDS[kind],
                first_pixels=first_pixels,
            )
            growth = [asdict(replace(probe, peak_bytes=probe.peak_bytes - self._base)) for probe in found]
            self._cache.put(key, growth)
        probes = [Probe(**each) for each in growth]
        return [replace(probe, peak_bytes=probe.peak_bytes + self._base) for probe in probes]

    def timed_again(self, kind: Kind, measured: StrategyProfile) -> list[Probe]:
        """A strategy's smaller probes, timed again with the allocator as it is now; peaks are unchanged."""
        probes = [probe for probe in measured.probes if probe.pixels <= RETIMED_PIXELS]
        shapes = [(probe.images, probe.height, probe.width) for probe in probes]
        key = {**self._identity, "kind": kind, "kept": measured.strategy.to_dict(), "shapes": shapes}
        seconds = self._cache.get(key)
        if seconds is None:
            seconds = []
            for images, height, width in shapes:
                canvas = Shape(height, width)
                seconds.append(min(_STEPS[kind](self.engine, images, canvas, measured.strategy) for _ in range(2)))
            self._cache.put(key, seconds)
        return [replace(probe, seconds=value) for probe, value in zip(probes, seconds)]


def measure_profiles(prober: Prober, workload: Workload) -> tuple[MemoryProfile, MemoryProfile]:
    """Probe training and evaluation by every strategy that the largest image needs; the weights are restored afterward.

    Returns:
        The profiles of training and of evaluation; where nothing is trained, that of evaluation twice.
    """
    engine = prober.engine
    if workload.training is None:
        engine.model.eval()
        profile = _profile(prober, "evaluate", workload, workload.evaluation)
        profile, _ = _keeping_freed(prober, "evaluate", workload, profile, profile)
        return profile, profile
    with weights_restored(engine) as prober.copy_bytes:
        engine.model.train()
        training = _profile(prober, "train", workload, workload.training)
        train_probe(engine, 1, SMALL, PLAIN)  # evaluation between epochs runs with the optimizer's state in memory
        engine.model.eval()
        evaluation = _profile(prober, "evaluate", workload, workload.evaluation)
        return _keeping_freed(prober, "train", workload, training, evaluation)


def _profile(prober: Prober, kind: Kind, workload: Workload, probe_range: ProbeRange) -> MemoryProfile:
    """Profiles of the strategies from the first allowed to the one that holds the largest image, or the last
    allowed."""
    names = STRATEGY_NAMES[STRATEGY_NAMES.index(workload.least) : STRATEGY_NAMES.index(workload.most) + 1]
    if kind == "evaluate":  # nothing is kept for a backward pass, so the strategies between save nothing
        names = tuple(name for name in STRATEGY_NAMES if name == "plain" or (name == "tile" and name == workload.most))
    profile: MemoryProfile | None = None
    for name in names:
        for strategy, first_pixels in _strategies(prober.engine, name, workload, probe_range, profile):
            try:
                probes = prober.probe(kind, strategy, probe_range, workload.budget_bytes, first_pixels)
            except ShortageError:  # it takes more than was estimated
                heap.release_unused()
                continue
            found = strategy_profile(name, strategy, probes)
            before = () if profile is None else profile.measured
            profile = MemoryProfile(
                budget_bytes=workload.budget_bytes,
                reserved_bytes=workload.reserved_bytes,
                heap="return",
                map_elements=prober.engine.model.map_elements(),
                probe_range=probe_range,
                # A later try takes less memory than those before.
                measured=(*(each for each in before if each.name != name), found),
            )
            if profile.largest_pixels >= probe_range.largest_image or not profile.holds_anything:
                return profile
    if profile is None:
        raise BudgetError(
            f"None of the strategies {', '.join(names)} works for this network within the memory budget; leave "
            "--strategy out, or choose a network that is a chain of blocks, such as resnet50."
        )
    return profile


def _strategies(
    engine: Engine, name: StrategyName, workload: Workload, probe_range: ProbeRange, before: MemoryProfile | None
) -> Iterator[tuple[Strategy, int]]:
    """The strategies to try under a name, each with the pixels of its first probe; empty where the network has none."""
    bf16 = workload.may_use_bf16 and name != "plain"
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
        if name == "tile":
            fixed = [each.memory.fixed_bytes for each in before.measured] if before else [resident_bytes()]
            memory = workload.budget_bytes - workload.reserved_bytes - min(fixed)
            yield from _tiled_strategies(tiled(weights), memory, probe_range.largest_image, bf16=bf16)
        elif name == "checkpoint" or can_offload(engine.device):
            yield replace(checkpointed(weights, offload=name == "offload"), bf16=bf16), FIRST_PIXELS


def _tiled_strategies(
    estimates: list[Estimate], memory: float, largest_image: int, *, bf16: bool
) -> Iterator[tuple[Strategy, int]]:
    """The fastest strategy estimated to hold the largest image, then others that take less memory."""
    for _ in range(TRIES):
        fitting = [each for each in estimates if _total(each, largest_image) * MARGIN <= memory]
        if not fitting and estimates:
            best = min(estimates, key=lambda each: _total(each, largest_image))
            fitting = [best] if _total(best, largest_image) <= HOPEFUL * memory else []
        if not fitting:
            return
        least_work = min(each.work for each in fitting)
        chosen = min((each for each in fitting if each.work <= 1.02 * least_work), key=lambda each: each.tile_bytes)
        side = max(chosen.strategy.segments[0].tile_side, 256)
        wanted = min(TILES_PROBED * side * side, largest_image // STRIDE, FARTHEST_PIXELS)
        yield replace(chosen.strategy, bf16=bf16), max(1 << wanted.bit_length() // 2 * 2, FIRST_PIXELS)
        total = _total(chosen, largest_image)
        estimates = [each for each in estimates if _total(each, largest_image) < 0.8 * total]


def _total(estimate: Estimate, pixels: int) -> float:
    return estimate.bytes_per_pixel * pixels + estimate.tile_bytes


def _keeping_freed(
    prober: Prober, kind: Kind, workload: Workload, profile: MemoryProfile, evaluation: MemoryProfile
) -> tuple[MemoryProfile, MemoryProfile]:
    """Both profiles with an allocator that keeps freed memory, if they still hold enough; training is timed again."""
    keeping, evaluated = replace(profile, heap="keep"), replace(evaluation, heap="keep")
    tunable = workload.may_keep_freed and prober.engine.device.type == "cpu" and heap.is_tunable()
    needs = profile.probe_range
    enough = max(needs.largest_image, min(needs.usual_pixels, LAUNCHES * profile.launch_pixels))
    holds_all = keeping.most_pixels[0] >= enough
    evaluates_all = evaluated.most_pixels[0] >= evaluation.probe_range.largest_image
    if not tunable or len(profile.measured) > 1 or not holds_all or not evaluates_all:
        return profile, evaluation
    heap.keep_freed()
    timed = replace(keeping.base, time=fit_time(prober.timed_again(kind, keeping.base)))
    return replace(keeping, measured=(timed,)), evaluated


def _machine(engine: Engine) -> dict[str, Any]:
    """The facts of device and libraries on which memory and time depend."""
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
    """The type and model of a device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return f"{device.type}: {name}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
