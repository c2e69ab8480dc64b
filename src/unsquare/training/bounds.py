"""The bounds of a run: the most pixels of a micro-batch, pinned by the user or measured on the device.

They are written to the run folder once and read back on a resume, because the plan follows from them: measured
again, a clock's noise would make another plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from unsquare.data.loader import decoding_bytes
from unsquare.errors import BudgetError, PlanError, RunError
from unsquare.index.table import ShapeIndex
from unsquare.memory.budget import budget_bytes, format_bytes
from unsquare.plan.config import Limits
from unsquare.plan.epoch import MicroBatch
from unsquare.plan.planner import plan_epoch
from unsquare.shapes import Sizes
from unsquare.training.capacity import Capacity, Need, measure_training, verify_largest
from unsquare.training.config import TrainConfig
from unsquare.training.console import Console
from unsquare.training.engine import Engine

VERSION = 1
VERIFIED_STEPS = 1024
"""Steps of the first epoch whose largest micro-batch is run before training; all are within the same budget."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a run's plans may count on."""

    budget_pixels: int
    """The most computed pixels of a training micro-batch."""
    evaluation_pixels: int
    """The most computed pixels of a micro-batch that is only evaluated."""
    launch_pixels: int
    """The cost of one more micro-batch as pixels."""
    checkpointing: bool
    """Whether activations are recomputed instead of kept."""
    world_size: int = 1
    """Ranks that they were measured for."""
    capacity: Capacity | None = None
    """The measurements behind the numbers; None where the user pinned them."""

    def limits(self, world_size: int, *, evaluation: bool = False) -> Limits:
        """The limits of a plan."""
        limits = Limits(
            budget_pixels=self.evaluation_pixels if evaluation else self.budget_pixels,
            launch_pixels=self.launch_pixels,
            world_size=world_size,
        )
        if self.capacity is None or not self.capacity.time.s_per_pixel:
            return limits
        return replace(limits, pixels_per_s=max(round(1 / self.capacity.time.s_per_pixel), 1))

    def to_dict(self) -> dict[str, Any]:
        """The content of `models.json`."""
        own = {key: value for key, value in vars(self).items() if key != "capacity"}
        return {"version": VERSION, **(self.capacity.to_dict() if self.capacity else {}), **own}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Bounds:
        """The bounds that `to_dict` wrote.

        Raises:
            RunError: the file is of another release.
        """
        if values.get("version") != VERSION:
            raise RunError(
                f"The run's models.json has version {values.get('version')}, but this release reads version {VERSION}; "
                "start the run anew."
            )
        try:
            return cls(
                budget_pixels=values["budget_pixels"],
                evaluation_pixels=values["evaluation_pixels"],
                launch_pixels=values["launch_pixels"],
                checkpointing=values["checkpointing"],
                world_size=values["world_size"],
                capacity=Capacity.from_dict(values) if "memory" in values else None,
            )
        except KeyError as error:
            raise RunError(f"The run's models.json lacks {error}; start the run anew.") from error


def measure_bounds(engine: Engine, config: TrainConfig, index: ShapeIndex, sizes: Sizes, console: Console) -> Bounds:
    """The bounds that the settings pin, or that probe steps of the real network show.

    Args:
        engine: the network on its device.
        config: the settings.
        index: all images of the run.
        sizes: training shapes, (N, 2).
        console: told what is found.
    """
    device = config.device
    if device.budget_pixels is not None:
        return Bounds(
            budget_pixels=device.budget_pixels,
            evaluation_pixels=device.budget_pixels,
            launch_pixels=device.launch_pixels,
            checkpointing=device.activation_checkpointing == "on",
            world_size=engine.fabric.world_size,
        )
    budget = budget_bytes(device.memory, engine.device, engine.num_local_ranks)
    console.say(f"Measuring memory and time within {format_bytes(budget)} ...")
    capacity = _measure(engine, config, index, sizes, budget)
    # One rank's clock decides, so that all make the same plan.
    capacity = Capacity.from_dict(engine.fabric.broadcast(capacity.to_dict()))
    if capacity.budget_pixels < 1:
        taken = capacity.memory.peak_bytes(1) + capacity.reserved_bytes
        raise BudgetError(
            f"The budget must hold the process and one picture, but of {format_bytes(budget)} the process and the "
            f"decoders take up to {format_bytes(taken)} before any; give more than that with --memory."
        )
    console.say(
        f"A micro-batch holds up to {capacity.budget_pixels / 1e6:.1f} MP: {format_bytes(capacity.memory.fixed_bytes)} "
        f"and {capacity.memory.bytes_per_pixel:.0f} bytes per pixel, {1e-6 / capacity.time.s_per_pixel:.2f} MP/s"
        f"{'; activations are recomputed to fit the largest image' if capacity.checkpointing else ''}."
    )
    return Bounds(
        budget_pixels=capacity.budget_pixels,
        evaluation_pixels=capacity.evaluation_pixels,
        launch_pixels=capacity.launch_pixels,
        checkpointing=capacity.checkpointing,
        world_size=engine.fabric.world_size,
        capacity=capacity,
    )


def _measure(engine: Engine, config: TrainConfig, index: ShapeIndex, sizes: Sizes, budget: int) -> Capacity:
    """Probe without recomputing activations, then with, where the largest image or the user asks for it."""
    # On a GPU the budget is the device's memory, and decoding takes none of it.
    reserved = decoding_bytes(index, config.geometry) if engine.device.type == "cpu" else 0
    multiple = config.plan.multiple if config.plan.canvases is not None else 1
    largest = int((-(-sizes // multiple) * multiple).prod(axis=1).max())
    for checkpointing in {"on": (True,), "off": (False,), "auto": (False, True)}[
        config.device.activation_checkpointing
    ]:
        if checkpointing:
            engine.model.checkpoint_activations()
        capacity = measure_training(
            engine,
            budget_bytes=budget,
            reserved_bytes=reserved,
            need=Need.of(sizes, config.plan.most_images(len(sizes))),
            checkpointing=checkpointing,
        )
        if capacity.budget_pixels >= largest:
            capacity = _verify(engine, config, sizes, capacity)
        if capacity.budget_pixels >= largest:
            break
    return capacity  # the planner refuses it and names the image


def _verify(engine: Engine, config: TrainConfig, sizes: Sizes, capacity: Capacity) -> Capacity:
    """Run the first epoch's largest micro-batch before anything depends on it; correct the capacity if need be."""
    while True:
        largest = _largest_micro_batch(config, sizes, capacity, engine.fabric.world_size)
        if largest is None:
            return capacity
        images, canvas = len(largest.images), largest.canvas
        before = capacity.budget_pixels
        capacity = verify_largest(engine, capacity, images, canvas)
        if capacity.budget_pixels >= largest.computed_pixels or capacity.budget_pixels >= before:
            return capacity


def _largest_micro_batch(config: TrainConfig, sizes: Sizes, capacity: Capacity, world_size: int) -> MicroBatch | None:
    limits = Limits(budget_pixels=capacity.budget_pixels, launch_pixels=capacity.launch_pixels, world_size=world_size)
    once = replace(config.plan, sampling="once")
    try:
        plan = plan_epoch(sizes, once, limits, 0, turns=config.augment.turns)
    except PlanError:  # the run's own plan says why
        return None
    batches = (each for step in islice(plan.steps, VERIFIED_STEPS) for each in step.micro_batches)
    return max(batches, key=lambda each: each.computed_pixels)
