"""What a run's plans may count on, found before training: pinned by the user, or measured on this device."""

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
from unsquare.memory.budget import budget_bytes, format_bytes
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
"""Of an image that a budget which holds none should hold, so that there is something to work with."""
VERIFIED_STEPS = 1024
"""Steps of the first epoch whose largest micro-batch is run before training; all are within the same budget."""
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
    """What a network is to do with pictures: train on some of them, or evaluate them alone.

    Args:
        engine: the network on its device.
        device: budget and strategies.
        index: all pictures, which are evaluated whole.
        geometry: the rule for their sizes.
        training: what training needs; None where nothing is trained.
        step_images: images that an evaluation's micro-batches may have, where memory holds them.
    """
    whole = geometry.resize(index.sizes)
    reserved = 0
    if engine.device.type == "cpu":  # on a GPU the budget is the device's memory, and decoding takes none of it
        # What is read ahead of a small micro-batch may be large; what takes more to decode is not read ahead.
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
) -> RunLimits:
    """The limits that probe steps of the real network show; one rank's clock decides, so that all plan alike.

    Args:
        engine: the network on its device.
        device: whether earlier probes count.
        workload: what it is to do.
        identity: what measurements depend on beside the device (`identity_of`).
        checked: refuses or corrects the profile of training.
        auto_precision: whether the user left the precision open.
    """
    cache = MeasurementCache(cache_folder() if device.reuse_probes else None)
    training, evaluation = measure_profiles(Prober(engine, identity, cache), workload)
    training = checked(training)
    limits = RunLimits(
        training=training,
        evaluation=replace(evaluation, heap=training.heap),
        world_size=engine.fabric.world_size,
        auto_precision=auto_precision,
    )
    return RunLimits.from_dict(broadcast(engine.fabric, limits.to_dict()))


def pinned_limits(engine: Engine, device: DeviceConfig, *, auto_precision: bool = False) -> RunLimits | None:
    """The limits that the settings pin; None where they pin none."""
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
    """The strategy of the settings, where nothing is measured."""
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
    settings = {name: value for name, value in asdict(model).items() if name not in ("pretrained", "weights")}
    return {"model": settings, "num_classes": num_classes, "optimizer": optimizer.optimizer}


def remember(limits: RunLimits, backbone: str, engine: Engine) -> None:
    """Keep measured limits for plans that are made on this machine without training."""
    if limits.training is not None and engine.fabric.is_global_zero:
        precision = str(engine.fabric.strategy.precision.precision)
        told = limits.training.limits(limits.training.launch_pixels, 1)
        remember_limits(backbone, precision, device_name(engine.device), asdict(told))


def describe(profile: MemoryProfile) -> list[str]:
    """What was measured, in a line, and a line for each fallback."""
    base, most = profile.base, profile.most_pixels
    kept = profile.heap == "keep"
    per_pixel = profile.growth_bytes(base, 1, 0)
    decoding = f", {format_bytes(profile.reserved_bytes)} for decoding" if profile.reserved_bytes else ""
    lines = [
        f"A micro-batch holds up to {most[0] / 1e6:.1f} MP: {format_bytes(base.memory.fixed_bytes)}{decoding} "
        f"and {'up to ' if kept else ''}{per_pixel:.0f} bytes per pixel, {1e-6 / base.time.s_per_pixel:.2f} MP/s."
    ]
    if kept:
        lines.append("Enough memory: allocator caching is on (faster, up to twice the memory).")
    for fallback, limit in zip(profile.limits(profile.launch_pixels, 1).fallbacks, most[1:]):
        lines.append(
            f"Larger images run alone, by the strategy {fallback.name}: up to {limit / 1e6:.1f} MP, "
            f"{fallback.price:.2f} times the time."
        )
    return lines


def memory_flag(engine: Engine, num_bytes: int) -> str:
    """The flag that gives a rank this many bytes, and a little more: measured again, they are never the same."""
    shared = engine.num_local_ranks if engine.device.type == "cpu" else 1  # a CPU's memory is given for all ranks
    return f"--memory {math.ceil(1.02 * num_bytes * shared / (1 << 20))}MiB"


def require_budget(engine: Engine, profile: MemoryProfile, index: ShapeIndex, geometry: Geometry) -> None:
    """Refuse a budget that does not hold the process, or the largest picture's decoding, for which the rest waits."""
    decoding = decoding_bytes(index, geometry) if engine.device.type == "cpu" else 0
    fixed = int(profile.base.memory.fixed_bytes)
    if profile.largest_pixels < 1:
        least = profile.least_budget_bytes(min(profile.probe_range.largest_image, LEAST_PIXELS)) or 0
        raise BudgetError(
            "The memory budget must hold the process and one picture, but the process and the decoders alone take up "
            f"to {format_bytes(fixed + profile.reserved_bytes)} of {format_bytes(profile.budget_bytes)}; "
            f"give {memory_flag(engine, max(least, fixed + decoding))} or more."
        )
    if fixed + decoding > profile.budget_bytes:
        raise BudgetError(
            "The memory budget must hold the process and the largest picture while it is decoded, but they take "
            f"{format_bytes(fixed)} and up to {format_bytes(decoding)} of {format_bytes(profile.budget_bytes)}; "
            f"give {memory_flag(engine, fixed + decoding)} or more."
        )


def verified(
    engine: Engine, profile: MemoryProfile, plan: Callable[[Limits], EpochPlan | None], say: Say
) -> MemoryProfile:
    """Run the first epoch's largest micro-batch of each strategy before anything depends on it; correct what is wrong.

    Args:
        engine: the network on its device.
        profile: of training.
        plan: the first epoch's plan within limits; None where there is none.
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
        done[name] = largest.computed_pixels  # corrected, the plan has only smaller ones


def verify_largest(engine: Engine, profile: MemoryProfile, images: int, canvas: Shape, say: Say) -> MemoryProfile:
    """Run a planned micro-batch once; return the profile, corrected where the run took more than predicted."""
    pixels = images * canvas.pixels
    measured = profile.strategy_for(pixels)
    expected_s = measured.time.seconds(pixels)
    if expected_s > SLOW_S:
        how_long = f"{expected_s:.0f} s" if expected_s < 90 else f"{expected_s / 60:.0f} min"
        say(f"Running the largest image once, {canvas}, by the strategy {measured.name}: about {how_long} ...")
    with weights_restored(engine) as copy_bytes:
        engine.model.train()
        train_probe(engine, 1, SMALL, PLAIN)  # the optimizer has its state
        try:
            probe = measure(engine, train_probe, images, canvas, measured.strategy)
            probe = replace(probe, peak_bytes=probe.peak_bytes - copy_bytes)
        except ShortageError:
            # How much it would have taken is not known; half as much again brings the next fallback into play.
            more = replace(measured.memory, bytes_per_pixel=1.5 * measured.memory.bytes_per_pixel)
            return profile.with_memory(measured, more)
    if profile.heap == "keep":  # its peaks are bounds, no measure of what is in use
        if probe.peak_bytes <= profile.usable_bytes:
            return profile
        return_freed()
        release_unused()
        return replace(profile, heap="return")
    if probe.peak_bytes <= measured.memory.peak_bytes(pixels, images):
        return profile  # less may be taken because not all kernels that the model counts are held yet
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
    """Have the C library's heap work as was measured."""
    release_unused()
    if limits.training is None or limits.training.heap == "keep":
        keep_freed()
    else:
        return_freed()


def tidy_heap(limits: RunLimits) -> None:
    """Where the heap returns what is freed, return small blocks as well, which nobody else does."""
    if limits.training is not None and limits.training.heap == "return":
        trim()
