"""Measures the execution strategies of a network on this device, one fallback after the other, until the largest
image fits."""

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
"""After this time no further probe of a strategy starts: lines need no more, and a start should not take minutes."""
FARTHEST_PIXELS = 1 << 26
"""No probe is larger."""
TILES_PROBED = 4
"""Tiles of the smallest image by which tiling is probed."""
MARGIN = 1.2
"""How much more than estimated a tiled strategy is expected to take at the most."""
HOPEFUL = 1.5
"""Where no tiled strategy is estimated to fit, the best is measured if its estimate is at most this many times the
memory there is."""
TRIES = 3
"""Tiled strategies that are measured, each with less memory than the one before, until the largest image fits."""
RETIMED_PIXELS = 1 << 20
"""Probes up to which times are taken again where the heap keeps what is freed."""
LAUNCHES = 32
"""A heap that keeps what is freed halves the budget; launches that are this many times smaller do not show."""

_STEPS: dict[Kind, ProbeStep] = {"train": train_probe, "evaluate": evaluate_probe}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The micro-batches that memory is measured for, and what else takes memory meanwhile."""

    training: ProbeRange | None
    """None where nothing is trained."""
    evaluation: ProbeRange
    budget_bytes: int
    """The memory budget of this rank."""
    reserved_bytes: int = 0
    """Part of it kept for decoding."""
    least: StrategyName = "plain"
    """The strategy of micro-batches that fit."""
    most: StrategyName = "tile"
    """The last fallback."""
    may_use_bf16: bool = False
    """Whether images that do not fit may be computed in bf16 although the run is not."""
    may_keep_freed: bool = False
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

    def probe(
        self, kind: Kind, strategy: Strategy, probe_range: ProbeRange, budget: int, first_pixels: int
    ) -> list[Probe]:
        """Probes of a strategy, the first with `first_pixels`."""
        # Rounded, so that another dataset or a budget that is a little different finds what is known.
        far = min(1 << (probe_range.usual_pixels - 1).bit_length(), FARTHEST_PIXELS)
        half = 1 << (budget.bit_length() - 1)
        key = {
            **self._identity,
            "probing": PROBING,
            "kind": kind,
            "trained": kind == "train" or bool(self.engine.optimizer.state),  # which is held in evaluation, too
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
        """A strategy's smaller probes with their times as the heap is now, memory left as it was."""
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
    """Probe training and evaluation by all the strategies that the largest image needs; the weights stay as they were.

    Returns:
        The profiles of training and of evaluation; where nothing is trained, twice that of evaluation.
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
        train_probe(engine, 1, SMALL, PLAIN)  # evaluation between epochs finds the optimizer's state held
        engine.model.eval()
        evaluation = _profile(prober, "evaluate", workload, workload.evaluation)
        return _keeping_freed(prober, "train", workload, training, evaluation)


def _profile(prober: Prober, kind: Kind, workload: Workload, probe_range: ProbeRange) -> MemoryProfile:
    """Strategies from the least allowed to the first that holds the largest image, or the last allowed."""
    names = STRATEGY_NAMES[STRATEGY_NAMES.index(workload.least) : STRATEGY_NAMES.index(workload.most) + 1]
    if kind == "evaluate":  # nothing is kept for a backward pass, so that the strategies between save nothing
        names = tuple(name for name in STRATEGY_NAMES if name == "plain" or (name == "tile" and name == workload.most))
    profile: MemoryProfile | None = None
    for name in names:
        for strategy, first_pixels in _strategies(prober.engine, name, workload, probe_range, profile):
            try:
                probes = prober.probe(kind, strategy, probe_range, workload.budget_bytes, first_pixels)
            except ShortageError:  # a strategy that takes more than was estimated
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
                # A later try takes less than one before.
                measured=(*(each for each in before if each.name != name), found),
            )
            if profile.largest_pixels >= probe_range.largest_image or not profile.holds_anything:
                return profile
    if profile is None:
        raise BudgetError(
            f"The network must run by one of the strategies {', '.join(names)}, but none of them works within the "
            "memory budget; leave --strategy out, or choose a network that is a chain of blocks, such as resnet50."
        )
    return profile


def _strategies(
    engine: Engine, name: StrategyName, workload: Workload, probe_range: ProbeRange, before: MemoryProfile | None
) -> Iterator[tuple[Strategy, int]]:
    """The strategies of a name to try, and the pixels of their first probe; none where the network has none."""
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
    """The fastest strategy that should hold the largest image in the memory, then others that take less."""
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
    """Both profiles with a heap that keeps what is freed, if they still hold enough; the first one timed again."""
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
