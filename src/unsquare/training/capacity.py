"""What the planner may count on: how large a micro-batch may be, the rungs above that, and what a launch costs.

A rung is a way to run the network that takes less memory and more time. Several images share a micro-batch as long as
the first rung holds them; an image that it does not hold alone climbs to the lowest rung that does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from unsquare.data.loader import READ_AHEAD
from unsquare.errors import RunError
from unsquare.execution.strategy import RungName, Way
from unsquare.memory.model import KEPT_FACTOR, MemoryModel, TimeModel
from unsquare.plan import config as plan
from unsquare.training.probing import Need, Probe

Heap = Literal["return", "keep"]
Grows = tuple[str, Way, int | None]
"""A way to run a micro-batch: its name, the way, and the bytes that it is known to grow by."""

HEADROOM = 0.03
"""Part of the budget that no plan uses. Held-out peaks lie within 5 % of the lines at p95; a run's largest
micro-batch is measured itself before training (docs/experiments.md)."""
MAP_ELEMENTS = (1 << 31) - 1
"""Elements of the largest map. Kernels that count in 32 bits fail or crawl beyond; see benchmarks/past_int32.py."""

LEAST_LAUNCH_PIXELS, MOST_LAUNCH_PIXELS = 1 << 14, 1 << 22


@dataclass(frozen=True, kw_only=True)
class MeasuredRung:
    """A way to run micro-batches, and what it takes on this device."""

    name: RungName
    way: Way
    memory: MemoryModel
    """Peak bytes of a micro-batch."""
    time: TimeModel
    """Seconds of a micro-batch."""
    probes: tuple[Probe, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "name": self.name,
            "way": self.way.to_dict(),
            "memory": self.memory.to_dict(),
            "time": self.time.to_dict(),
            "probes": [asdict(probe) for probe in self.probes],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MeasuredRung:
        """The rung that `to_dict` wrote."""
        return cls(
            name=values["name"],
            way=Way.from_dict(values["way"]),
            memory=MemoryModel.from_dict(values["memory"]),
            time=TimeModel.from_dict(values["time"]),
            probes=tuple(Probe(**probe) for probe in values["probes"]),
        )


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The rungs of training, or of evaluation, and the pixels that each holds."""

    rungs: tuple[MeasuredRung, ...]
    held: tuple[int, ...]
    """The most computed pixels of each rung's micro-batch, ascending: rungs that hold no more than others are out."""

    @property
    def base(self) -> MeasuredRung:
        """The first rung, which micro-batches of several images take."""
        return self.rungs[0]

    @property
    def largest_pixels(self) -> int:
        """The most computed pixels of an image alone."""
        return self.held[-1]

    def rung(self, pixels: int) -> MeasuredRung:
        """The lowest rung that holds so many pixels; the last where none does."""
        return next((rung for rung, held in zip(self.rungs, self.held) if pixels <= held), self.rungs[-1])

    def limits(self, launch_pixels: int, world_size: int) -> plan.Limits:
        """What the planner is told."""
        speed = self.base.time.s_per_pixel
        return plan.Limits(
            budget_pixels=max(self.held[0], 1),
            launch_pixels=launch_pixels,
            pixels_per_s=max(round(1 / speed), 1) if speed else plan.Limits.pixels_per_s,
            world_size=world_size,
            ladder=tuple(
                plan.Rung(name=rung.name, most_pixels=held, price=_price(rung, self.base))
                for rung, held in zip(self.rungs[1:], self.held[1:])
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What was measured, and the bounds that follow."""

    budget_bytes: int
    """The memory budget of one rank."""
    reserved_bytes: int
    """What the loader's decoders may take of it."""
    heap: Heap
    """Whether the C library's heap keeps what is freed, which is quicker, or returns it, which takes less."""
    map_elements: float
    """Elements of the network's largest map for each pixel."""
    need: Need
    evaluation_need: Need
    rungs: tuple[MeasuredRung, ...]
    """Of training, from the first that is used."""
    evaluation_rungs: tuple[MeasuredRung, ...]

    @property
    def training(self) -> Ladder:
        """The ladder of training."""
        return self._ladder(self.rungs, self.need)

    @property
    def evaluation(self) -> Ladder:
        """The ladder of evaluation."""
        return self._ladder(self.evaluation_rungs, self.evaluation_need)

    @property
    def usable_bytes(self) -> int:
        """The budget less what is kept back: headroom and the decoders' bytes."""
        return int(self.budget_bytes * (1 - HEADROOM)) - self.reserved_bytes

    @property
    def holds_anything(self) -> bool:
        """Whether the budget leaves room beside the process, however micro-batches are run."""
        return min(rung.memory.fixed_bytes for rung in self.rungs) < self.usable_bytes

    @property
    def launch_pixels(self) -> int:
        """The cost of one more micro-batch as pixels, to the nearest power of two.

        A clock is never twice the same; rounded, the same machine makes the same plan.
        """
        pixels = min(max(self.rungs[0].time.launch_pixels, LEAST_LAUNCH_PIXELS), MOST_LAUNCH_PIXELS)
        return int(2 ** round(math.log2(pixels)))

    def least_budget_bytes(self, pixels: int) -> int | None:
        """The smallest budget in which a measured rung holds an image of so many pixels; None where none ever does."""
        found = []
        for rung in self.rungs:
            if rung.way.streams or pixels * self.map_elements <= MAP_ELEMENTS:
                worst = _worst_cases(rung.memory, self.need, 1.0)
                peak = min(memory.peak_bytes(pixels, images) for memory, images in worst)
                found.append(math.ceil((peak + self.reserved_bytes + 1) / (1 - HEADROOM)))
        return min(found, default=None)

    def ways(self, ladder: Ladder, pixels: int, images: int) -> list[Grows]:
        """The rung of a micro-batch and those above it: name, way, and the bytes that it may grow by."""
        rungs = ladder.rungs[ladder.rungs.index(ladder.rung(pixels)) :]
        return [(rung.name, rung.way, int(self.growth_bytes(rung, pixels, images))) for rung in rungs]

    def growth_bytes(self, rung: MeasuredRung, pixels: int, images: int) -> float:
        """What a micro-batch may add to the memory that is held between two."""
        return rung.memory.growth_bytes(pixels, images) * self._factor

    def bound_bytes(self, rung: MeasuredRung, pixels: int, images: int) -> float:
        """What the process may hold at the peak of a micro-batch; with what decoding left where the heap is kept."""
        left = self.reserved_bytes if self.heap == "keep" else 0
        return rung.memory.fixed_bytes + self.growth_bytes(rung, pixels, images) + left

    @property
    def _factor(self) -> float:
        return KEPT_FACTOR if self.heap == "keep" else 1.0

    def _ladder(self, rungs: tuple[MeasuredRung, ...], need: Need) -> Ladder:
        kept: list[MeasuredRung] = []
        held: list[int] = []
        for rung in rungs:
            pixels = self._held(rung, need)
            if not kept or pixels > held[-1]:
                kept.append(rung)
                held.append(pixels)
        return Ladder(rungs=tuple(kept), held=tuple(held))

    def _held(self, rung: MeasuredRung, need: Need) -> int:
        """The most computed pixels of a rung's micro-batch; 0 where not even one fits."""
        worst = _worst_cases(rung.memory, need, self._factor)
        pixels = max(memory.largest_pixels(self.usable_bytes, images) for memory, images in worst)
        return pixels if rung.way.streams else min(pixels, int(MAP_ELEMENTS / self.map_elements))

    def with_memory(self, rung: MeasuredRung, memory: MemoryModel) -> Capacity:
        """The capacity with another memory model for a rung of training."""
        return replace(self, rungs=tuple(replace(each, memory=memory) if each is rung else each for each in self.rungs))

    def with_probe(self, rung: MeasuredRung, probe: Probe, fitted: MemoryModel) -> Capacity:
        """The capacity with one more measurement of a rung of training, and the model that follows."""
        better = replace(rung, probes=(*rung.probes, probe), memory=fitted)
        return replace(self, rungs=tuple(better if each is rung else each for each in self.rungs))

    def to_dict(self) -> dict[str, Any]:
        """The content of `models.json`."""
        return {
            "budget_bytes": self.budget_bytes,
            "reserved_bytes": self.reserved_bytes,
            "usable_bytes": self.usable_bytes,
            "heap": self.heap,
            "map_elements": self.map_elements,
            "need": asdict(self.need),
            "evaluation_need": asdict(self.evaluation_need),
            "rungs": [rung.to_dict() for rung in self.rungs],
            "evaluation_rungs": [rung.to_dict() for rung in self.evaluation_rungs],
            "held_pixels": dict(zip((rung.name for rung in self.training.rungs), self.training.held)),
            "launch_pixels": self.launch_pixels,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Capacity:
        """The capacity that `to_dict` wrote.

        Raises:
            RunError: something is missing.
        """
        try:
            return cls(
                budget_bytes=int(values["budget_bytes"]),
                reserved_bytes=int(values["reserved_bytes"]),
                heap=values["heap"],
                map_elements=float(values["map_elements"]),
                need=Need(**values["need"]),
                evaluation_need=Need(**values["evaluation_need"]),
                rungs=tuple(map(MeasuredRung.from_dict, values["rungs"])),
                evaluation_rungs=tuple(map(MeasuredRung.from_dict, values["evaluation_rungs"])),
            )
        except (KeyError, TypeError, ValueError, AssertionError) as error:
            raise RunError(
                f"The measurements in models.json cannot be used ({error!r}); start the run anew."
            ) from error


def _worst_cases(memory: MemoryModel, need: Need, factor: float) -> list[tuple[MemoryModel, int]]:
    """What micro-batches take at the most, and the images to count; each bound holds, so the laxer one does.

    Either all images are as small as the smallest, or there are as many as there may be. With them stand the batches
    read ahead, whose pixels take three bytes each.
    """
    per_pixel = memory.bytes_per_pixel * factor + 3 * READ_AHEAD
    per_image = memory.bytes_per_image * factor
    cases = [(MemoryModel(memory.fixed_bytes, per_pixel + per_image / need.smallest_image), 0)]
    if need.most_images is not None:
        cases.append((MemoryModel(memory.fixed_bytes, per_pixel, per_image), need.most_images))
    return cases


def _price(rung: MeasuredRung, base: MeasuredRung) -> float:
    """Time of a pixel over that of the first rung, to a twentieth: a clock is never twice the same."""
    return max(round(20 * rung.time.s_per_pixel / base.time.s_per_pixel) / 20, 0.05)
