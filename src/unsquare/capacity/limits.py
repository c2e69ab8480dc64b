"""Finds what a run's plans may use, before training: limits set by the user, or measured on this device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from unsquare.capacity.fallbacks import Prober, Workload, device_name, measure_profiles
from unsquare.capacity.probes import SMALL, fit_memory, measure, train_probe, weights_restored
from unsquare.data.gate import DECODE_BYTES
from unsquare.data.loader import decoding_bytes
from unsquare.errors import BudgetError, ExactError
from unsquare.execution.cuts import checkpointed, smallest_tiled
from unsquare.execution.strategy import PLAIN, Strategy
from unsquare.index.table import ShapeIndex
from unsquare.memory.amounts import format_bytes
from unsquare.memory.budget import budget_bytes
from unsquare.memory.cache import MeasurementCache, cache_folder, remember_limits
from unsquare.memory.heap import keep_freed, release_unused, return_freed, trim
from unsquare.network.classifier import ModelConfig
from unsquare.network.device import DeviceConfig
from unsquare.network.engine import Engine, ShortageError
from unsquare.network.optimizer import OptimizerConfig
from unsquare.network.ranks import broadcast
from unsquare.plan.config import Limits
from unsquare.plan.epoch import EpochPlan, MicroBatch
from unsquare.progress import Say
from unsquare.runs.memory_profile import READ_AHEAD, MemoryProfile, ProbeRange, RunLimits
from unsquare.shapes import Geometry, Shape

LEAST_PIXELS = 1 << 20
"""Where the budget holds no image, the suggested one holds an image of up to this many pixels."""
VERIFIED_STEPS = 1024
"""Steps of the first epoch among which the largest micro-batch is run before training; all keep to the same budget."""
SLOW_S = 20.0
"""A probe that takes longer is announced."""


def pictures_workload(
    engine: Engine,
    device: DeviceConfig,
    index: ShapeIndex,
    geometry: Geometry,
    *,
    training: ProbeRange | None,
    step_images: int,
) -> Workload:
    """What a network is to run on pictures: training on some of them, or evaluation alone.

    Args:
        engine: the network on its device.
        device: budget and strategies.
        index: all pictures, which are evaluated whole.
        geometry: the rule for their sizes.
        training: the probes that training needs; None where nothing is trained.
        step_images: images that a micro-batch of evaluation may have, memory allowing.
    """
    whole = geometry.resize(index.sizes)
    reserved = 0
    if engine.device.type == "cpu":  # a GPU's budget is its own memory, which decoding does not use
        # What is read ahead beside a small micro-batch may be large; larger decodes are not read ahead.
        reserved = DECODE_BYTES + min(3 * int(whole.prod(axis=1).max()), DECODE_BYTES) * READ_AHEAD
    return Workload(
        training=training,
        evaluation=ProbeRange.of(whole, step_images),
        budget_bytes=budget_bytes(device.memory, engine.device, engine.num_local_ranks),
        reserved_bytes=reserved,
        least=device.least_strategy if training is not None else "plain",
        most=device.max_strategy,
        may_keep_freed=True,
    )


def measure_limits(
    engine: Engine,
    device: DeviceConfig,
    workload: Workload,
    identity: dict[str, Any],
    checked: Callable[[MemoryProfile], MemoryProfile] = lambda profile: profile,
    *,
    auto_precision: bool = False,
    say: Say = lambda text: None,
) -> RunLimits:
    """The limits measured by probes of the real network; rank 0's measurements count, so that all ranks plan alike.

    Args:
        engine: the network on its device.
        device: whether results of earlier probes may be used.
        workload: the micro-batches to measure.
        identity: what measurements depend on besides the device (`identity_of`).
        checked: checks the profile of training, and returns it corrected or raises.
        auto_precision: whether the user left the precision open.
        say: told whether all had been measured before.
    """
    cache = MeasurementCache(cache_folder(), reads=device.reuse_probes)
    training, evaluation = measure_profiles(Prober(engine, identity, cache), workload)
    if not cache.num_put:
        say("It was measured before on this machine (--no-reuse-probes measures anew).")
    training = checked(training)
    limits = RunLimits(
        training=training,
        evaluation=replace(evaluation, heap=training.heap),
        world_size=engine.fabric.world_size,
        auto_precision=auto_precision,
    )
    return RunLimits.from_dict(broadcast(engine.fabric, limits.to_dict()))


def pinned_limits(engine: Engine, device: DeviceConfig, *, auto_precision: bool = False) -> RunLimits | None:
    """The limits set by the user; None where none are."""
    if device.budget_pixels is None:
        return None
    return RunLimits(
        budget_pixels=device.budget_pixels,
        launch_pixels=device.launch_pixels,
        strategy=_pinned_strategy(engine, device),
        world_size=engine.fabric.world_size,
        auto_precision=auto_precision,
    )


def _pinned_strategy(engine: Engine, device: DeviceConfig) -> Strategy:
    """The strategy set by the user, where nothing is measured."""
    least = device.least_strategy
    if least in ("plain", "bf16"):
        return replace(PLAIN, bf16=least == "bf16")
    try:
        chain = engine.model.chain()
    except ExactError as error:
        raise BudgetError(f"--strategy {least} does not work for this network: {error}") from error
    with engine.fabric.autocast():
        engine.model.train()
        weights = chain.weigh()
    found = smallest_tiled(weights) if least == "tile" else checkpointed(weights, offload=least == "offload")
    if found is None:
        raise BudgetError("--strategy tile needs a first layer with a bounded receptive field; try --norm frozen.")
    return found


def identity_of(model: ModelConfig, num_classes: int, optimizer: OptimizerConfig) -> dict[str, Any]:
    """What measurements depend on: the network and its optimizer, but not where its weights come from."""
    sources = ("pretrained", "weights", "from_run")
    settings = {name: value for name, value in asdict(model).items() if name not in sources}
    trained = {"optimizer": optimizer.optimizer, "frozen": optimizer.frozen_in(), "averaged": optimizer.ema is not None}
    return {"model": settings, "num_classes": num_classes, **trained}


def remember(limits: RunLimits, backbone: str, engine: Engine) -> None:
    """Save measured limits, for plans made on this machine without training."""
    if limits.training is not None and engine.fabric.is_global_zero:
        precision = str(engine.fabric.strategy.precision.precision)
        told = limits.training.limits(limits.training.launch_pixels, 1)
        remember_limits(backbone, precision, device_name(engine.device), asdict(told))


def describe(profile: MemoryProfile) -> list[str]:
    """A line on what was measured, and one for each fallback."""
    base, most = profile.base, profile.most_pixels
    kept = profile.heap == "keep"
    per_pixel = profile.growth_bytes(base, 1, 0)
    decoding = f", {format_bytes(profile.reserved_bytes)} for decoding" if profile.reserved_bytes else ""
    rate = f"{1e-6 / base.time.s_per_pixel:.2f} MP/s, padding included"
    lines = [
        f"A micro-batch holds up to {most[0] / 1e6:.1f} MP: {format_bytes(base.memory.fixed_bytes)} fixed{decoding} "
        f"and {'up to ' if kept else ''}{per_pixel:.0f} bytes per pixel; {rate}."
    ]
    if kept:
        lines.append(
            "There is memory enough for allocator caching, which is faster: freed memory is kept for what comes next."
        )
    for fallback, limit in zip(profile.limits(profile.launch_pixels, 1).fallbacks, most[1:]):
        lines.append(
            f"Larger images run alone, by the strategy {fallback.name}: up to {limit / 1e6:.1f} MP, "
            f"{fallback.price:.2f} times the time."
        )
    return lines


def memory_flag(engine: Engine, num_bytes: int) -> str:
    """The flag that gives a rank this many bytes and a little more, since measurements vary."""
    shared = engine.num_local_ranks if engine.device.type == "cpu" else 1  # a CPU's budget is for all ranks together
    return f"--memory {math.ceil(1.02 * num_bytes * shared / (1 << 20))}MiB"


def require_budget(engine: Engine, profile: MemoryProfile, index: ShapeIndex, geometry: Geometry) -> None:
    """Refuse a budget that does not hold the process, or not the decoding of the largest picture.

    While that picture is decoded, everything else waits.
    """
    decoding = decoding_bytes(index, geometry) if engine.device.type == "cpu" else 0
    fixed = int(profile.base.memory.fixed_bytes)
    if profile.largest_pixels < 1:
        least = profile.least_budget_bytes(min(profile.probe_range.largest_image, LEAST_PIXELS)) or 0
        raise BudgetError(
            f"The process and the decoders alone take up to {format_bytes(fixed + profile.reserved_bytes)} of the "
            f"memory budget of {format_bytes(profile.budget_bytes)}, which leaves too little for one picture; give "
            f"{memory_flag(engine, max(least, fixed + decoding))} or more."
        )
    if fixed + decoding > profile.budget_bytes:
        raise BudgetError(
            f"The process takes {format_bytes(fixed)} and decoding the largest picture up to {format_bytes(decoding)}, "
            f"more than the memory budget of {format_bytes(profile.budget_bytes)}; give "
            f"{memory_flag(engine, fixed + decoding)} or more."
        )


def verified(
    engine: Engine, profile: MemoryProfile, plan: Callable[[Limits], EpochPlan | None], say: Say
) -> MemoryProfile:
    """Run the first epoch's largest micro-batch of each strategy once, and correct the profile where it was wrong.

    Args:
        engine: the network on its device.
        profile: the profile of training.
        plan: plans the first epoch within limits; None where no plan is possible.
        say: told of probes that take long.
    """
    done: dict[str, int] = {}
    while True:
        first = plan(profile.limits(profile.launch_pixels, engine.fabric.world_size))
        found = _largest_micro_batches(profile, first) if first is not None else {}
        todo = {name: each for name, each in found.items() if each.computed_pixels > done.get(name, 0)}
        if not todo:
            return profile
        name, largest = next(iter(todo.items()))
        profile = verify_largest(engine, profile, len(largest.images), largest.canvas, say)
        done[name] = largest.computed_pixels  # the plan of a corrected profile has only smaller ones


def verify_largest(engine: Engine, profile: MemoryProfile, images: int, canvas: Shape, say: Say) -> MemoryProfile:
    """Run a planned micro-batch once; return the profile, corrected if the run took more than predicted."""
    pixels = images * canvas.pixels
    measured = profile.strategy_for(pixels)
    expected_s = measured.time.seconds(pixels)
    if expected_s > SLOW_S:
        how_long = f"{expected_s:.0f} s" if expected_s < 90 else f"{expected_s / 60:.0f} min"
        say(f"Running the largest image once, {canvas}, by the strategy {measured.name}: about {how_long} ...")
    with weights_restored(engine) as copy_bytes:
        engine.model.train()
        train_probe(engine, 1, SMALL, PLAIN)  # creates the optimizer's state
        try:
            probe = measure(engine, train_probe, images, canvas, measured.strategy)
            probe = replace(probe, peak_bytes=probe.peak_bytes - copy_bytes)
        except ShortageError:
            # How much it would have taken is unknown; assuming half as much again makes the next fallback take over.
            more = replace(measured.memory, bytes_per_pixel=1.5 * measured.memory.bytes_per_pixel)
            return profile.with_memory(measured, more)
    if profile.heap == "keep":  # its peaks are bounds, not measurements
        if probe.peak_bytes <= profile.usable_bytes:
            return profile
        return_freed()
        release_unused()
        return replace(profile, heap="return")
    if probe.peak_bytes <= measured.memory.peak_bytes(pixels, images):
        return profile  # it may take less because some kernels that the model counts are not loaded yet
    return profile.with_memory(measured, fit_memory((*measured.probes, probe), measured.strategy), probe)


def _largest_micro_batches(profile: MemoryProfile, plan: EpochPlan) -> dict[str, MicroBatch]:
    """The largest micro-batch of each strategy in a plan."""
    largest: dict[str, MicroBatch] = {}
    for step in islice(plan.steps, VERIFIED_STEPS):
        for each in step.micro_batches:
            name = profile.strategy_for(each.computed_pixels).name
            if name not in largest or each.computed_pixels > largest[name].computed_pixels:
                largest[name] = each
    return largest


def apply_heap(limits: RunLimits) -> None:
    """Set up the C library's heap as it was when memory was measured."""
    release_unused()
    if limits.training is None or limits.training.heap == "keep":
        keep_freed()
    else:
        return_freed()


def tidy_heap(limits: RunLimits) -> None:
    """Where freed memory is returned, return small blocks as well, which the C library itself does not."""
    if limits.training is not None and limits.training.heap == "return":
        trim()
