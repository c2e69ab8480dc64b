"""The bounds of a run: what its plans may count on, pinned by the user or measured on the device.

They are written to the run folder once and read back on a resume, because the plan follows from them: measured
again, a clock's noise would make another plan.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from unsquare.data.gate import DECODE_BYTES
from unsquare.data.loader import READ_AHEAD, decoding_bytes
from unsquare.errors import BudgetError, ExactError, PlanError, RunError
from unsquare.execution.cuts import most_frugal, recomputed
from unsquare.execution.strategy import PLAIN, Way
from unsquare.index.table import ShapeIndex
from unsquare.memory.budget import budget_bytes, format_bytes
from unsquare.memory.cache import MeasurementCache, cache_folder, remember_limits
from unsquare.memory.heap import keep_freed, release_unused, return_freed, trim
from unsquare.network.engine import Engine, ShortageError
from unsquare.network.ranks import broadcast
from unsquare.plan.config import Limits
from unsquare.plan.epoch import MicroBatch
from unsquare.plan.planner import plan_epoch
from unsquare.shapes import Shape, Sizes
from unsquare.training.capacity import Capacity, Grows
from unsquare.training.config import TrainConfig
from unsquare.training.console import Console
from unsquare.training.measure import SMALL, Frame, Prober, device_name, measure_training
from unsquare.training.probing import Need, fit_memory, measure, run_training, untouched

VERSION = 2
LEAST_PIXELS = 1 << 20
"""Of an image that a budget which holds none should hold, so that there is something to work with."""
VERIFIED_STEPS = 1024
"""Steps of the first epoch whose largest micro-batch is run before training; all are within the same budget."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a run's plans may count on."""

    capacity: Capacity | None = None
    """What was measured; None where the user pinned the bounds."""
    budget_pixels: int = 0
    """The most computed pixels of a micro-batch, where pinned."""
    launch_pixels: int = 0
    """The cost of one more micro-batch as pixels, where pinned."""
    way: Way = PLAIN
    """How micro-batches are run, where pinned."""
    world_size: int = 1
    """Ranks that they are for."""
    auto_precision: bool = False
    """Whether the user left the precision open, so that another number of ranks may measure the same rungs."""

    def limits(self, world_size: int, *, evaluation: bool = False) -> Limits:
        """The limits of a plan."""
        if self.capacity is None:
            return Limits(budget_pixels=self.budget_pixels, launch_pixels=self.launch_pixels, world_size=world_size)
        ladder = self.capacity.evaluation if evaluation else self.capacity.training
        return ladder.limits(self.capacity.launch_pixels, world_size)

    def ways(self, pixels: int, images: int, *, evaluation: bool = False) -> list[Grows]:
        """The ways to run a micro-batch, best first: name, way, and the bytes that it may grow by, where known."""
        if self.capacity is None:
            return [("pinned", PLAIN if evaluation else self.way, None)]
        ladder = self.capacity.evaluation if evaluation else self.capacity.training
        return self.capacity.ways(ladder, pixels, images)

    def apply_heap(self) -> None:
        """Have the C library's heap work as was measured."""
        release_unused()
        if self.capacity is None or self.capacity.heap == "keep":
            keep_freed()
        else:
            return_freed()

    def tidy_heap(self) -> None:
        """Where the heap returns what is freed, return small blocks as well, which nobody else does."""
        if self.capacity is not None and self.capacity.heap == "return":
            trim()

    def to_dict(self) -> dict[str, Any]:
        """The content of `models.json`."""
        values = {"version": VERSION, "world_size": self.world_size, "auto_precision": self.auto_precision}
        if self.capacity is not None:
            return values | {"measured": self.capacity.to_dict()}
        pinned = {"budget_pixels": self.budget_pixels, "launch_pixels": self.launch_pixels, "way": self.way.to_dict()}
        return values | {"pinned": pinned}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Bounds:
        """The bounds that `to_dict` wrote, as the schema of `models.json` has them.

        Raises:
            RunError: they make no sense together.
        """
        try:
            if values.get("measured"):
                found: dict[str, Any] = {"capacity": Capacity.from_dict(values["measured"])}
            else:
                pinned = values["pinned"]
                found = {name: pinned[name] for name in ("budget_pixels", "launch_pixels")}
                found["way"] = Way.from_dict(pinned["way"])
            world_size, auto_precision = values.get("world_size", 1), values.get("auto_precision", False)
            return cls(**found, world_size=world_size, auto_precision=auto_precision)
        except (KeyError, TypeError, AssertionError) as error:
            raise RunError(f"The run's models.json cannot be used ({error!r}); start the run anew.") from error


def measure_bounds(
    engine: Engine, config: TrainConfig, index: ShapeIndex, sizes: Sizes, console: Console, *, auto_precision: bool
) -> Bounds:
    """The bounds that the settings pin, or that probe steps of the real network show.

    Args:
        engine: the network on its device.
        config: the settings.
        index: all images of the run.
        sizes: training shapes, (N, 2).
        console: told what is found.
        auto_precision: whether the user left the precision open.
    """
    device = config.device
    if device.budget_pixels is not None:
        return Bounds(
            budget_pixels=device.budget_pixels,
            launch_pixels=device.launch_pixels,
            way=_pinned_way(engine, config),
            world_size=engine.fabric.world_size,
            auto_precision=auto_precision,
        )
    budget = budget_bytes(device.memory, engine.device, engine.num_local_ranks)
    console.say(f"Measuring memory and time within {format_bytes(budget)} ...")
    capacity = _measure(engine, config, index, sizes, budget, console, auto_precision)
    # One rank's clock decides, so that all make the same plan.
    capacity = Capacity.from_dict(broadcast(engine.fabric, capacity.to_dict()))
    for line in describe(capacity):
        console.say(line)
    if device.reuse_probes and engine.fabric.is_global_zero:
        precision = str(engine.fabric.strategy.precision.precision)
        limits = capacity.training.limits(capacity.launch_pixels, 1)
        remember_limits(config.model.backbone, precision, device_name(engine.device), asdict(limits))
    return Bounds(capacity=capacity, world_size=engine.fabric.world_size, auto_precision=auto_precision)


def describe(capacity: Capacity) -> list[str]:
    """What was measured, in a line, and a line for each rung above."""
    ladder = capacity.training
    base, held = ladder.base, ladder.held[0]
    kept = capacity.heap == "keep"
    per_pixel = capacity.growth_bytes(base, 1, 0)
    decoding = f", {format_bytes(capacity.reserved_bytes)} for decoding" if capacity.reserved_bytes else ""
    lines = [
        f"A micro-batch holds up to {held / 1e6:.1f} MP: {format_bytes(base.memory.fixed_bytes)}{decoding} "
        f"and {'up to ' if kept else ''}{per_pixel:.0f} bytes per pixel, {1e-6 / base.time.s_per_pixel:.2f} MP/s."
    ]
    if kept:
        lines.append("That much holds all that saves time, so the heap keeps what is freed: quicker, twice the memory.")
    for rung, limit in zip(ladder.limits(capacity.launch_pixels, 1).ladder, ladder.held[1:]):
        lines.append(
            f"Larger images go alone, by {rung.name}: up to {limit / 1e6:.1f} MP at {rung.price:.2f} times the time."
        )
    return lines


def memory_flag(engine: Engine, num_bytes: int) -> str:
    """The flag that gives a rank so many bytes, and a little more: measured anew, they are never the same."""
    shared = engine.num_local_ranks if engine.device.type == "cpu" else 1  # a CPU's memory is given for all ranks
    return f"--memory {math.ceil(1.02 * num_bytes * shared / (1 << 20))}MiB"


def identity(config: TrainConfig, num_classes: int) -> dict[str, Any]:
    """What measurements depend on: the network and its optimizer, but not where its weights come from."""
    model = {name: value for name, value in asdict(config.model).items() if name not in ("pretrained", "weights")}
    return {"model": model, "num_classes": num_classes, "optimizer": config.optimizer.optimizer}


def _pinned_way(engine: Engine, config: TrainConfig) -> Way:
    """The way of the lowest rung that the settings allow, where nothing is measured."""
    lowest = config.device.lowest_rung
    if lowest in ("plain", "bf16"):
        return replace(PLAIN, bf16=lowest == "bf16")
    try:
        chain = engine.model.chain()
    except ExactError as error:
        raise BudgetError(f"--lowest-rung {lowest} cannot be had: {error}") from error
    with engine.fabric.autocast():
        engine.model.train()
        weights = chain.weigh()
    way = most_frugal(weights) if lowest == "stream" else recomputed(weights, offload=lowest == "offload")
    if way is None:
        raise BudgetError("--lowest-rung stream needs a first layer that looks at a neighbourhood; try --norm frozen.")
    return way


def _measure(
    engine: Engine,
    config: TrainConfig,
    index: ShapeIndex,
    sizes: Sizes,
    budget: int,
    console: Console,
    auto_precision: bool,
) -> Capacity:
    device = config.device
    # On a GPU the budget is the device's memory, and decoding takes none of it.
    decoding = decoding_bytes(index, config.geometry) if engine.device.type == "cpu" else 0
    multiple = config.plan.multiple if config.plan.canvases is not None else 1
    padded = -(-sizes // multiple) * multiple
    mixed = config.plan.steps == "mixed"
    most_images = config.plan.most_images(len(sizes))
    whole = config.geometry.resize(index.sizes)
    precision = engine.fabric.strategy.precision.precision
    # Whatever is read ahead of a small micro-batch may be large; what takes more to decode is not read ahead.
    ahead = min(3 * int(whole.prod(axis=1).max()), DECODE_BYTES) * READ_AHEAD if decoding else 0
    frame = Frame(
        budget_bytes=budget,
        reserved_bytes=min(decoding, DECODE_BYTES) + ahead,
        lowest=device.lowest_rung,
        highest=device.highest_rung,
        may_use_bf16=auto_precision and precision == "32-true",
        may_keep=mixed,
    )
    cache = MeasurementCache(cache_folder() if device.reuse_probes else None)
    prober = Prober(engine, identity(config, len(index.classes)), cache)
    need = Need.of(padded, most_images, most_images=most_images if mixed else None)
    capacity = measure_training(prober, frame, need, Need.of(whole, most_images))
    _require_room(engine, capacity, decoding)
    return _verify(engine, config, padded, capacity, console)


def _require_room(engine: Engine, capacity: Capacity, decoding: int) -> None:
    """Refuse a budget that does not hold the process, or the largest picture's decoding, for which the rest waits."""
    fixed = int(capacity.rungs[0].memory.fixed_bytes)
    if capacity.training.largest_pixels < 1:
        least = capacity.least_budget_bytes(min(capacity.need.largest_image, LEAST_PIXELS)) or 0
        raise BudgetError(
            "The budget must hold the process and one picture, but the process and the decoders take up to "
            f"{format_bytes(fixed + capacity.reserved_bytes)} of {format_bytes(capacity.budget_bytes)} before any; "
            f"give {memory_flag(engine, max(least, fixed + decoding))} or more."
        )
    if fixed + decoding > capacity.budget_bytes:
        raise BudgetError(
            "The budget must hold the process and the largest picture while it is decoded, but they take "
            f"{format_bytes(fixed)} and up to {format_bytes(decoding)} of {format_bytes(capacity.budget_bytes)}; "
            f"give {memory_flag(engine, fixed + decoding)} or more."
        )


def _verify(engine: Engine, config: TrainConfig, sizes: Sizes, capacity: Capacity, console: Console) -> Capacity:
    """Run the first epoch's largest micro-batch of each rung before anything depends on it; correct what is wrong."""
    done: dict[str, int] = {}
    while True:
        found = _largest_micro_batches(config, sizes, capacity, engine.fabric.world_size)
        todo = {name: each for name, each in found.items() if each.computed_pixels > done.get(name, 0)}
        if not todo:
            return capacity
        name, largest = next(iter(todo.items()))
        capacity = verify_largest(engine, capacity, len(largest.images), largest.canvas, console)
        done[name] = largest.computed_pixels  # corrected, the plan has only smaller ones


def verify_largest(engine: Engine, capacity: Capacity, images: int, canvas: Shape, console: Console) -> Capacity:
    """Run a planned micro-batch once; return the capacity, corrected where the run took more than foreseen."""
    pixels = images * canvas.pixels
    rung = capacity.training.rung(pixels)
    expected_s = rung.time.seconds(pixels)
    if expected_s > 20:
        how_long = f"{expected_s:.0f} s" if expected_s < 90 else f"{expected_s / 60:.0f} min"
        console.say(f"Running the largest image once, {canvas}, by {rung.name}: about {how_long} ...")
    with untouched(engine) as copy_bytes:
        engine.model.train()
        run_training(engine, 1, SMALL, PLAIN)  # the optimizer has its state
        try:
            probe = measure(engine, run_training, images, canvas, rung.way)
            probe = replace(probe, peak_bytes=probe.peak_bytes - copy_bytes)
        except ShortageError:
            # How much it would have taken is not known; half as much again brings the next rung into play.
            return capacity.with_memory(rung, replace(rung.memory, bytes_per_pixel=1.5 * rung.memory.bytes_per_pixel))
    if capacity.heap == "keep":  # its peaks are bounds, no measure of what is in use
        if probe.peak_bytes <= capacity.usable_bytes:
            return capacity
        return_freed()
        release_unused()
        return replace(capacity, heap="return")
    if probe.peak_bytes <= rung.memory.peak_bytes(pixels, images):
        return capacity  # less may be taken because not all kernels that the model counts are held yet
    return capacity.with_probe(rung, probe, fit_memory((*rung.probes, probe), rung.way))


def _largest_micro_batches(
    config: TrainConfig, sizes: Sizes, capacity: Capacity, world_size: int
) -> dict[str, MicroBatch]:
    """The largest micro-batch of each rung in the first epoch's plan; none where there is no plan."""
    limits = capacity.training.limits(capacity.launch_pixels, world_size)
    try:
        plan = plan_epoch(sizes, replace(config.plan, sampling="once"), limits, 0, turns=config.augment.turns)
    except PlanError:  # the run's own plan says why
        return {}
    largest: dict[str, MicroBatch] = {}
    for step in islice(plan.steps, VERIFIED_STEPS):
        for each in step.micro_batches:
            name = capacity.training.rung(each.computed_pixels).name
            if name not in largest or each.computed_pixels > largest[name].computed_pixels:
                largest[name] = each
    return largest
