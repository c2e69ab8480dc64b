"""Steps from shapes that are known only as they arrive: no index, one pass, a bounded number of images held.

In `mixed` the buffer shuffles: each step is a uniform draw from the images held. In `b2b` the images held are
partitioned into steps of similar shape whenever the buffer is full; the half that costs least for its pixels is used,
the rest waits for images that fit better, at most twice. Both depend on nothing but the order of arrival, the settings
and the epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Annotated

import numpy as np

from unsquare.errors import PlanError
from unsquare.plan.b2b import on_ranks
from unsquare.plan.config import MOST_STEP_IMAGES, EpochNumber, Limits, PlanConfig
from unsquare.plan.draw import Order, Purpose
from unsquare.plan.epoch import MicroBatch, Positions, Step, canvas_of
from unsquare.plan.partition.ranks import spread
from unsquare.plan.partition.tight import partition
from unsquare.plan.planner import ImageOverBudgetError
from unsquare.settings import Range, checks_arguments
from unsquare.shapes import Shape, Sizes, checked_sides, shape_rows

BUFFER_IMAGES = 4096
MOST_BUFFER = 1 << 24
"""Every step processes the whole buffer."""


@checks_arguments
def plan_stream(
    shapes: Iterable[tuple[int, int]],
    config: PlanConfig,
    limits: Limits,
    epoch: EpochNumber = 0,
    *,
    buffer_images: Annotated[int, Range(1, MOST_BUFFER)] = BUFFER_IMAGES,
) -> Iterator[Step]:
    """Steps over images in the order of their arrival, each image exactly once.

    Positions in the micro-batches count arrivals from 0. Shapes are taken from the iterable only when the buffer is not
    full, so the caller holds at most `buffer_images` images and those of the current step.

    Args:
        shapes: height and width of each image as it arrives; any length.
        config: form of the steps, images of a mixed step (left out, 256), seed. Buckets are formed from what is held.
        limits: what a micro-batch may hold, what a launch costs, and the number of ranks.
        epoch: number of the epoch; each epoch has its own draws.
        buffer_images: how many images are held; more pad less and mix better.

    Returns:
        The steps, each as soon as it is planned.

    Raises:
        PlanError: an image alone exceeds the budget (`ImageOverBudgetError`), the buffer is smaller than a step, or
            the settings need the whole dataset: bounded canvases, balanced sampling.

    Example:
        >>> shapes = [(400, 600), (600, 400)] * 4
        >>> steps = unsquare.plan_stream(shapes, unsquare.PlanConfig(step_images=4), unsquare.Limits(), buffer_images=4)
        >>> [step.num_images for step in steps]
        [4, 4]
    """
    if config.canvases is not None or config.sampling != "once" or config.least_scale < 1:
        raise PlanError(
            "A stream cannot bound canvases, repeat images or scale them, which needs all shapes beforehand, but "
            f"canvases is {config.canvases}, sampling is {config.sampling!r} and min_scale is {config.least_scale:g}; "
            "leave them out, or use plan_epoch."
        )
    step_images = config.step_images or MOST_STEP_IMAGES
    if config.steps == "mixed" and buffer_images < step_images:
        raise PlanError(
            f"The buffer must hold a step of {step_images} images, but holds {buffer_images}; raise buffer_images or "
            "lower step_images."
        )
    return _steps(iter(shapes), config, limits, epoch, buffer_images, step_images)


def _steps(
    shapes: Iterator[tuple[int, int]],
    config: PlanConfig,
    limits: Limits,
    epoch: int,
    buffer_images: int,
    step_images: int,
) -> Iterator[Step]:
    held = _Held(shapes, limits, buffer_images)
    number = 0
    while held.fill():
        order = Order(config.seed, epoch, Purpose.STEPS, len(held.numbers), number).all()
        number += 1
        if config.steps == "mixed":
            # What remains at the end is cut into near-equal steps.
            share = len(order) if held.ended and len(order) <= step_images else step_images
            if held.ended and len(order) > step_images:
                share = -(-len(order) // -(-len(order) // step_images))
            chosen = np.sort(order[:share])
            least = config.least_images
            parts = partition(held.sizes, chosen, limits, least)
            ranks = spread(held.sizes, parts, limits, least=least)
            yield Step(tuple(tuple(_arrived(batch, held.numbers) for batch in rank) for rank in ranks))
            held.drop(chosen)
            continue
        parts = _steps_that_go(held, limits)
        for part in (parts[i] for i in np.argsort([order[part[0]] for part in parts])):
            ranks = _on_ranks(held.sizes, part[np.argsort(order[part])], limits)
            yield Step(tuple(tuple(_arrived(batch, held.numbers) for batch in rank) for rank in ranks))
        held.drop(np.concatenate(parts))


class _Held:
    """The images that have arrived and are not yet in a step."""

    def __init__(self, source: Iterator[tuple[int, int]], limits: Limits, most: int) -> None:
        self._source, self._limits, self._most = source, limits, most
        self._num_arrived = 0
        self.sizes: Sizes = np.empty((0, 2), dtype=np.int64)
        self.numbers: Positions = np.empty(0, dtype=np.int64)
        """Number of each image in the order of arrival."""
        self.waited = np.empty(0, dtype=np.int64)
        """How many times each has been left behind."""
        self.ended = False

    def fill(self) -> bool:
        """Fill the buffer. Returns whether any image is held."""
        wanted = self._most - len(self.numbers)
        taken = list(islice(self._source, wanted))
        arrived = checked_sides(shape_rows(taken, PlanError), PlanError)
        self.ended |= len(arrived) < wanted
        pixels = arrived.prod(axis=1)
        if len(arrived) and pixels.max() > self._limits.largest_pixels:
            worst = int(pixels.argmax())
            shape = Shape(int(arrived[worst, 0]), int(arrived[worst, 1]))
            raise ImageOverBudgetError(self._num_arrived + worst, shape, self._limits.largest_pixels)
        self.sizes = np.concatenate([self.sizes, arrived])
        self.numbers = np.concatenate([self.numbers, self._num_arrived + np.arange(len(arrived))])
        self.waited = np.concatenate([self.waited, np.zeros(len(arrived), dtype=np.int64)])
        self._num_arrived += len(arrived)
        return len(self.numbers) > 0

    def drop(self, used: Positions) -> None:
        """Remove these images, and count that the others were left behind."""
        kept = np.ones(len(self.numbers), dtype=bool)
        kept[used] = False
        self.sizes, self.numbers, self.waited = self.sizes[kept], self.numbers[kept], self.waited[kept] + 1


def _steps_that_go(held: _Held, limits: Limits) -> list[Positions]:
    """Steps of similar shape: those with images that waited twice, then the cheapest, until half the buffer is used."""
    parts = _partition_for_ranks(held.sizes, limits)
    if held.ended:
        return parts
    overdue = np.array([held.waited[part].max() >= 2 for part in parts])
    canvas_pixels = np.array([canvas_of(held.sizes, part).pixels for part in parts])
    number = np.array([len(part) for part in parts])
    real = np.array([held.sizes[part].prod(axis=1).sum() for part in parts])
    order = np.lexsort([limits.cost(canvas_pixels, number) / real, ~overdue])
    enough = int(np.searchsorted(np.cumsum(number[order]), len(held.numbers) / 2)) + 1
    return [parts[i] for i in order[: max(enough, int(overdue.sum()))]]


def _partition_for_ranks(sizes: Sizes, limits: Limits) -> list[Positions]:
    """Steps of one micro-batch per rank, as large as all ranks together hold; ranks are idle only if images run out."""
    together = replace(limits, budget_pixels=limits.budget_pixels * limits.world_size, fallbacks=())
    steps: list[Positions] = []
    short: list[Positions] = []  # parts of fewer images than ranks, gathered until there is one for each rank
    for part in partition(sizes, np.arange(len(sizes)), together):
        capacity = limits.world_size * max(limits.budget_pixels // canvas_of(sizes, part).pixels, 1)
        for images in np.array_split(part, -(-len(part) // capacity)):
            if len(images) >= limits.world_size:
                steps.append(images)
                continue
            short.append(images)
            if sum(map(len, short)) >= limits.world_size:
                steps.append(np.concatenate(short))
                short = []
    if short:
        last = [steps.pop()] if steps else []
        steps.append(np.concatenate([*last, *short]))
    return steps


def _on_ranks(sizes: Sizes, images: Positions, limits: Limits) -> tuple[tuple[MicroBatch, ...], ...]:
    """One micro-batch on every rank, or as many as a step of several shapes needs."""
    bound = canvas_of(sizes, images)
    if bound.pixels * -(-len(images) // limits.world_size) <= limits.budget_pixels:
        return on_ranks(sizes, images, limits, None, bound)
    return spread(sizes, partition(sizes, images, limits), limits)


def _arrived(batch: MicroBatch, numbers: Positions) -> MicroBatch:
    return replace(batch, images=numbers[batch.images])
