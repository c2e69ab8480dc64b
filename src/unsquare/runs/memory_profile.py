"""The limits of a run's plans, as `models.json` holds them: memory profiles of this device, or limits set by the user.

A memory profile says how large a micro-batch may be, by which execution strategy, and at what cost in time. Images
share a micro-batch as long as the first strategy holds them; an image that it does not hold alone is run by the first
fallback that does. Profiles are written once and read again on a resume, because plans depend on them: measured again,
the noise of clocks would give another plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from unsquare.errors import RunError, UnsquareError
from unsquare.execution.strategy import PLAIN, Strategy, StrategyName
from unsquare.memory.model import KEPT_FACTOR, Amount, MemoryModel, TimeModel
from unsquare.plan import config as plan
from unsquare.runs.schemas import Count, Positive, SidePixels
from unsquare.shapes import Sizes

VERSION = 3
READ_AHEAD = 1
"""Micro-batches that are decoded ahead of the current one; their pixels take three bytes each."""
HEADROOM = 0.03
"""Part of the budget that no plan uses. Held-out peaks lie within 5 % of the lines at p95; a run's largest micro-batch
is measured before training (docs/experiments.md)."""
MAP_ELEMENTS = (1 << 31) - 1
"""Elements of the largest map. Kernels that count in 32 bits fail or are very slow beyond; see
benchmarks/past_int32.py."""
LEAST_LAUNCH_PIXELS, MOST_LAUNCH_PIXELS = 1 << 14, 1 << 22

Heap = Literal["return", "keep"]


@dataclass(frozen=True)
class Probe:
    """One measured micro-batch."""

    images: Positive
    height: SidePixels
    width: SidePixels
    peak_bytes: Count
    seconds: Amount

    @property
    def pixels(self) -> int:
        """Computed pixels of the micro-batch."""
        return self.images * self.height * self.width


@dataclass(frozen=True)
class ProbeRange:
    """The sizes of the micro-batches to come: probes cover them, because lines extrapolate badly."""

    largest_image: Positive
    """Pixels of the largest image."""
    usual_pixels: Positive
    """Pixels that hardly any micro-batch exceeds."""
    smallest_image: Positive
    """Pixels of the smallest image, which bounds the images of a micro-batch."""
    most_images: Positive | None
    """Most images of a micro-batch; None where only memory bounds them."""

    @classmethod
    def of(cls, sizes: Sizes, step_images: int, *, most_images: int | None = None) -> ProbeRange:
        """The range for images of these shapes, (N, 2), of which a step takes `step_images`."""
        pixels = sizes.prod(axis=1)
        usual = int(max(pixels.max(), pixels.mean() * step_images))
        return cls(int(pixels.max()), usual, int(pixels.min()), most_images)


@dataclass(frozen=True, kw_only=True)
class StrategyProfile:
    """An execution strategy, with its memory and time on this device."""

    name: StrategyName
    strategy: Strategy
    memory: MemoryModel
    """Peak bytes of a micro-batch."""
    time: TimeModel
    """Seconds of a micro-batch."""
    probes: tuple[Probe, ...]


class Candidate(NamedTuple):
    """A strategy that may run a micro-batch."""

    name: str
    strategy: Strategy
    growth_bytes: int | None
    """By how much the micro-batch may increase the memory in use; None where that was not measured."""


@dataclass(frozen=True, kw_only=True)
class MemoryProfile:
    """Peak bytes and seconds of micro-batches by strategy, in training or evaluation, and the limits that follow."""

    budget_bytes: Annotated[int, Meta(gt=0, le=1 << 62)]
    """The memory budget of one rank."""
    reserved_bytes: Count
    """Part of it that decoding may take."""
    heap: Heap
    """Whether the allocator keeps freed memory, which is faster, or returns it, which takes less."""
    map_elements: Annotated[float, Meta(gt=0, le=1e9)]
    """Elements of the network's largest map for each pixel."""
    probe_range: ProbeRange
    measured: Annotated[tuple[StrategyProfile, ...], Meta(min_length=1)]
    """All strategies that were measured, from the one of micro-batches that fit to the last fallback."""

    @cached_property
    def _used(self) -> tuple[tuple[StrategyProfile, int], ...]:
        used: list[tuple[StrategyProfile, int]] = []
        for each in self.measured:
            pixels = self._most_pixels(each)
            if not used or pixels > used[-1][1]:
                used.append((each, pixels))
        return tuple(used)

    @property
    def strategies(self) -> tuple[StrategyProfile, ...]:
        """The strategies that plans use: each holds larger images than those before it."""
        return tuple(each for each, _ in self._used)

    @property
    def most_pixels(self) -> tuple[int, ...]:
        """The most computed pixels of a micro-batch by each of `strategies`, ascending; 0 where not even one pixel
        fits."""
        return tuple(pixels for _, pixels in self._used)

    @property
    def base(self) -> StrategyProfile:
        """The strategy of micro-batches of several images."""
        return self.measured[0]

    @property
    def largest_pixels(self) -> int:
        """The most computed pixels of a single image."""
        return self.most_pixels[-1]

    @property
    def usable_bytes(self) -> int:
        """The budget without the headroom and what decoding may take."""
        return int(self.budget_bytes * (1 - HEADROOM)) - self.reserved_bytes

    @property
    def holds_anything(self) -> bool:
        """Whether the budget is larger than the process's fixed memory."""
        return min(each.memory.fixed_bytes for each in self.measured) < self.usable_bytes

    @property
    def launch_pixels(self) -> int:
        """The cost of one more micro-batch as pixels, to the nearest power of two.

        Measured times vary; rounded, the same machine makes the same plan.
        """
        pixels = min(max(self.base.time.launch_pixels, LEAST_LAUNCH_PIXELS), MOST_LAUNCH_PIXELS)
        return int(2 ** round(math.log2(pixels)))

    def strategy_for(self, pixels: int) -> StrategyProfile:
        """The first strategy that holds a micro-batch of this many pixels; the last where none does."""
        return next((each for each, most in self._used if pixels <= most), self.strategies[-1])

    def candidates(self, pixels: int, images: int) -> list[Candidate]:
        """The strategy for a micro-batch and the fallbacks after it."""
        first = self.strategies.index(self.strategy_for(pixels))
        return [
            Candidate(each.name, each.strategy, int(self.growth_bytes(each, pixels, images)))
            for each in self.strategies[first:]
        ]

    def limits(self, launch_pixels: int, world_size: int) -> plan.Limits:
        """The limits given to the planner."""
        speed = self.base.time.s_per_pixel
        return plan.Limits(
            budget_pixels=max(self.most_pixels[0], 1),
            launch_pixels=launch_pixels,
            pixels_per_s=max(round(1 / speed), 1) if speed else plan.Limits.pixels_per_s,
            world_size=world_size,
            fallbacks=tuple(
                plan.Fallback(name=each.name, most_pixels=most, price=self._price(each))
                for each, most in self._used[1:]
            ),
        )

    def growth_bytes(self, measured: StrategyProfile, pixels: Any, images: Any) -> Any:
        """Most bytes that a micro-batch adds to the memory in use before it; elementwise for arrays."""
        return measured.memory.growth_bytes(pixels, images) * self._factor

    def bound_bytes(self, measured: StrategyProfile, pixels: Any, images: Any) -> Any:
        """Most bytes of the process at a micro-batch's peak, elementwise; including decoding where its memory is
        kept."""
        left = self.reserved_bytes if self.heap == "keep" else 0
        return measured.memory.fixed_bytes + self.growth_bytes(measured, pixels, images) + left

    def least_budget_bytes(self, pixels: int) -> int | None:
        """The smallest budget in which a measured strategy holds an image of this many pixels; None where none does."""
        found = []
        for each in self.measured:
            if each.strategy.tiles or pixels * self.map_elements <= MAP_ELEMENTS:
                peak = min(memory.peak_bytes(pixels, images) for memory, images in self._worst_cases(each, 1.0))
                found.append(math.ceil((peak + self.reserved_bytes + 1) / (1 - HEADROOM)))
        return min(found, default=None)

    def with_memory(self, old: StrategyProfile, memory: MemoryModel, *probes: Probe) -> MemoryProfile:
        """The profile with another memory model for a strategy, and the probes on which it is based."""
        better = replace(old, memory=memory, probes=(*old.probes, *probes))
        return replace(self, measured=tuple(better if each is old else each for each in self.measured))

    @property
    def _factor(self) -> float:
        return KEPT_FACTOR if self.heap == "keep" else 1.0

    def _most_pixels(self, measured: StrategyProfile) -> int:
        cases = self._worst_cases(measured, self._factor)
        pixels = max(memory.largest_pixels(self.usable_bytes, images) for memory, images in cases)
        return pixels if measured.strategy.tiles else min(pixels, int(MAP_ELEMENTS / self.map_elements))

    def _worst_cases(self, measured: StrategyProfile, factor: float) -> list[tuple[MemoryModel, int]]:
        """The worst cases of micro-batches: memory models with numbers of images. Each is an upper bound, so the lower
        counts.

        Either all images are as small as the smallest, or there are as many as allowed. Micro-batches that are read
        ahead take three bytes per pixel.
        """
        memory = measured.memory
        per_pixel = memory.bytes_per_pixel * factor + 3 * READ_AHEAD
        per_image = memory.bytes_per_image * factor
        cases = [(MemoryModel(memory.fixed_bytes, per_pixel + per_image / self.probe_range.smallest_image), 0)]
        if self.probe_range.most_images is not None:
            cases.append((MemoryModel(memory.fixed_bytes, per_pixel, per_image), self.probe_range.most_images))
        return cases

    def _price(self, measured: StrategyProfile) -> float:
        """Time per pixel relative to the first strategy, to a twentieth, since measured times vary."""
        return max(round(20 * measured.time.s_per_pixel / self.base.time.s_per_pixel) / 20, 0.05)


@dataclass(frozen=True, kw_only=True)
class RunLimits:
    """The content of `models.json`: the limits of a run's plans, measured or set by the user."""

    training: MemoryProfile | None = None
    """None where the user set the limits."""
    evaluation: MemoryProfile | None = None
    budget_pixels: Count = 0
    """The most computed pixels of a micro-batch, where set by the user."""
    launch_pixels: Count = 0
    """The cost of one more micro-batch as pixels, where set by the user."""
    strategy: Strategy = PLAIN
    """How micro-batches are trained on, where the limits were set by the user."""
    world_size: Annotated[int, Meta(ge=1, le=1 << 14)] = 1
    """Number of ranks that the limits are for."""
    auto_precision: bool = False
    """Whether the precision is auto, so that measurements on another number of ranks may use the same strategies."""

    def __post_init__(self) -> None:
        both = (self.training is None, self.evaluation is None)
        if both[0] != both[1] or both[0] != (self.budget_pixels > 0):
            raise ValueError("Limits are either measured, for training and evaluation, or pinned")

    def profile(self, *, evaluation: bool = False) -> MemoryProfile | None:
        """The memory profile of training, or of evaluation; None where the user set the limits."""
        return self.evaluation if evaluation else self.training

    def limits(self, world_size: int, *, evaluation: bool = False) -> plan.Limits:
        """The limits given to the planner."""
        profile = self.profile(evaluation=evaluation)
        if self.training is None or profile is None:
            return plan.Limits(
                budget_pixels=self.budget_pixels, launch_pixels=self.launch_pixels, world_size=world_size
            )
        return profile.limits(self.training.launch_pixels, world_size)

    def candidates(self, pixels: int, images: int, *, evaluation: bool = False) -> list[Candidate]:
        """The strategies for a micro-batch, best first."""
        profile = self.profile(evaluation=evaluation)
        if profile is None:
            return [Candidate("pinned", PLAIN if evaluation else self.strategy, None)]
        return profile.candidates(pixels, images)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return {"version": VERSION, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunLimits:
        """The limits that `to_dict` wrote.

        Raises:
            RunError: a value is missing or out of range.
        """
        try:
            return msgspec.convert(dict(values), cls)
        except (ValueError, AssertionError, UnsquareError) as error:
            raise RunError(f"The run's models.json cannot be used ({error}); start a new run.") from error
