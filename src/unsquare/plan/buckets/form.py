"""Buckets: which images may share a micro-batch in b2b, decided once for all epochs.

Three ways to the same thing. `tree` always splits where it saves most, by height or by width. `iterative` and `exact`
cut the pixel count into superbuckets and each of them by aspect ratio, by the back-and-forth heuristic or by dynamic
programming. What they make small is the cost with every image padded to its bucket's bound. They look at distinct
shapes and how many images have each, so that their time hardly grows with the dataset.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from unsquare.plan.boundaries import back_and_forth, least_cost
from unsquare.plan.canvases import cheapest_canvas, choose_canvases
from unsquare.plan.config import Cost, Counts, Limits, PlanConfig
from unsquare.plan.distinct import Distinct
from unsquare.plan.draw import CHUNK
from unsquare.plan.epoch import Bucket, Positions
from unsquare.plan.merge import merge_small, without_small
from unsquare.plan.split import Split, best_split, cost_together
from unsquare.shapes import Shape, Sizes

USUAL_STEPS = 4
"""Steps that a bucket has images for on average where the number of buckets is left open: enough that who goes with
whom changes from epoch to epoch."""
LEAST_BUCKETS, MOST_AUTOMATIC = 64, 4096
"""Bounds of that number: few pictures of many shapes pad too much in a handful of buckets."""

Group = tuple[int, Positions]
"""A superbucket's number and positions of distinct shapes."""


@final
@dataclass(frozen=True, eq=False)
class Buckets:
    """The buckets of a dataset and the bucket of each image."""

    canvases: tuple[Shape, ...]
    """The bound of each bucket, (K,), ordered by superbucket and aspect."""
    superbuckets: tuple[int, ...]
    """Which group of like pixel count each bucket belongs to, (K,), 0 the smallest."""
    of_image: npt.NDArray[np.uint16]
    """The bucket of each image, (1, N), or upright and on its side, (2, N)."""

    @property
    def bounded(self) -> Sizes:
        """The canvases by ascending pixels, (K, 2): all that a plan may use where their number is bounded."""
        return np.array(sorted(self.canvases, key=lambda canvas: (canvas.pixels, canvas)), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.canvases)

    def of_epoch(self, turned: npt.NDArray[np.bool_] | None, images: Positions | None = None) -> tuple[Bucket, ...]:
        """The buckets with the images as they lie in one epoch; those without any are gone.

        Args:
            turned: whether each image lies on its side this epoch, (N,); None where none does.
            images: positions of the images of the epoch, (M,), ascending; None takes each once.
        """
        bucket_of = self.of_image[0]
        if turned is not None and len(self.of_image) == 2:
            bucket_of = np.where(turned, self.of_image[1], bucket_of)
        if images is not None:
            bucket_of = bucket_of[images]
        members = _sorted_by(bucket_of)
        if images is not None:
            members = images[members]
        ends = np.cumsum(np.bincount(bucket_of, minlength=len(self)))[:-1]
        return tuple(
            Bucket(images=part, canvas=canvas, superbucket=superbucket)
            for part, canvas, superbucket in zip(np.split(members, ends), self.canvases, self.superbuckets)
            if len(part)
        )


def form_buckets(sizes: npt.NDArray[np.integer], config: PlanConfig, limits: Limits, *, turns: bool = False) -> Buckets:
    """The buckets of these training shapes, (N, 2): at most `config.buckets`, or as many as serve.

    Where `config.canvases` bounds the canvases, the buckets are the images that have one of them as their cheapest.
    With `turns` an image lies upright in some epochs and on its side in others, so both shapes are sorted into buckets.
    """
    sizes = np.asarray(sizes)
    distinct = Distinct.of(sizes, turns=turns)
    if config.canvases is None:
        form = _by_tree if config.boundaries == "tree" else _by_pixels_then_aspect
        groups = form(distinct, config, limits)
        groups = merge_small(distinct.shapes, distinct.counts, groups, limits, _least(distinct, limits))
        canvases = [distinct.shapes[shapes].max(axis=0) for _, shapes in groups]
    else:
        groups, canvases = _by_canvases(distinct, config, limits)
    numbers = {old: new for new, old in enumerate(sorted({superbucket for superbucket, _ in groups}))}
    order = sorted(range(len(groups)), key=lambda i: (groups[i][0], canvases[i][0] / canvases[i][1], *canvases[i]))
    bucket_of_shape = np.empty(len(distinct.shapes), dtype=np.uint16)
    for number, group in enumerate(order):
        bucket_of_shape[groups[group][1]] = number
    of_image = np.empty((1 + turns, len(sizes)), dtype=np.uint16)
    for start in range(0, len(sizes), CHUNK):
        shapes = np.asarray(sizes[start : start + CHUNK], dtype=np.int64)
        for row, lying in zip(of_image, (shapes, shapes[:, ::-1])):
            row[start : start + CHUNK] = bucket_of_shape[distinct.number_of(lying)]
    return Buckets(
        canvases=tuple(Shape(int(canvases[i][0]), int(canvases[i][1])) for i in order),
        superbuckets=tuple(numbers[groups[i][0]] for i in order),
        of_image=of_image,
    )


def _sorted_by(bucket_of: npt.NDArray[np.uint16]) -> Positions:
    """Positions ordered by bucket, each bucket's ascending, in as few bytes as hold them."""
    if len(bucket_of) <= CHUNK:
        return np.argsort(bucket_of, kind="stable")
    # In chunks: NumPy sorts positions of 8 bytes each, with as much again to work in.
    order: Positions = np.empty(len(bucket_of), dtype=np.uint32 if len(bucket_of) < 2**32 else np.int64)
    counts = np.bincount(bucket_of)
    place = np.cumsum(counts) - counts
    for start in range(0, len(bucket_of), CHUNK):
        part = bucket_of[start : start + CHUNK]
        within = np.argsort(part, kind="stable")
        number = np.bincount(part, minlength=len(counts))
        first = np.cumsum(number) - number
        order[np.arange(len(part)) + np.repeat(place - first, number)] = within + start
        place += number
    return order


def _least(distinct: Distinct, limits: Limits) -> Callable[[Counts], Counts]:
    """The fewest images of a bucket: enough for a step, as often as each image counts."""
    return lambda canvas_pixels: distinct.orientations * limits.enough(canvas_pixels)


def _by_canvases(distinct: Distinct, config: PlanConfig, limits: Limits) -> tuple[list[Group], list[Sizes]]:
    """Distinct shapes by their cheapest canvas; canvases of like pixel count, to a factor of two, a superbucket."""
    assert config.canvases is not None, "a bounded number of canvases"
    canvases = choose_canvases(distinct.shapes, distinct.counts, config.canvases, limits, config.multiple)
    if config.steps == "b2b":
        canvases = without_small(distinct.shapes, distinct.counts, canvases, _least(distinct, limits))
    cheapest = cheapest_canvas(distinct.shapes, canvases)
    groups = [(int(canvas.prod()).bit_length(), np.flatnonzero(cheapest == i)) for i, canvas in enumerate(canvases)]
    return groups, list(canvases)


def _by_tree(distinct: Distinct, config: PlanConfig, limits: Limits) -> list[Group]:
    """Leaves of the greedy tree; canvases of like pixel count, to a factor of two, form a superbucket."""
    most = config.buckets or _automatic_number(distinct, limits)
    leaves = _leaves(distinct, limits, most)
    return [(int(distinct.shapes[leaf].max(axis=0).prod()).bit_length(), leaf) for leaf in leaves]


def _leaves(distinct: Distinct, limits: Limits, most: int) -> Iterator[Positions]:
    shapes, counts, least = distinct.shapes, distinct.counts, _least(distinct, limits)

    def priced(part: Positions, serial: int) -> tuple[int, int, Positions, Split | None]:
        """An entry of the queue: what the best split adds to the cost (below 0 where it saves), and the split."""
        split = best_split(shapes, part, limits.step_cost, counts, least) if len(part) > 1 else None
        if split is None:
            return 0, serial, part, None
        return split.cost - cost_together(shapes, part, limits.step_cost, counts), serial, part, split

    open_leaves = [priced(np.arange(len(shapes)), 0)]
    num_leaves = 1
    while open_leaves:
        saving, _, part, split = heapq.heappop(open_leaves)
        if split is None or saving >= 0 or num_leaves == most:
            yield part
            continue
        for serial, half in enumerate((split.first, split.second)):
            heapq.heappush(open_leaves, priced(half, 2 * num_leaves + serial))
        num_leaves += 1


def _by_pixels_then_aspect(distinct: Distinct, config: PlanConfig, limits: Limits) -> list[Group]:
    """The cheapest grid among those whose number of superbuckets is a power of two."""
    cut = back_and_forth if config.boundaries == "iterative" else least_cost
    most = config.buckets or _automatic_number(distinct, limits)
    order = np.argsort(distinct.shapes.prod(axis=1), kind="stable")
    trials = [_grid(distinct, order, 2**power, most // 2**power, limits, cut) for power in range(most.bit_length())]
    return min(trials, key=lambda trial: trial[1])[0]


def _automatic_number(distinct: Distinct, limits: Limits) -> int:
    """As many buckets as there would be if each had images for `USUAL_STEPS` steps, within bounds."""
    num_steps = (distinct.counts / limits.enough(distinct.shapes.prod(axis=1))).sum()
    usual = num_steps / (USUAL_STEPS * distinct.orientations)
    return int(np.clip(usual, LEAST_BUCKETS, MOST_AUTOMATIC))


Cut = Callable[[Sizes, Counts, int, Cost], tuple[Positions, int]]


def _grid(
    distinct: Distinct, order: Positions, num_superbuckets: int, num_aspects: int, limits: Limits, cut: Cut
) -> tuple[list[Group], int]:
    """Superbuckets by pixel count, each cut into `num_aspects` buckets by aspect; and what they cost."""
    shapes, counts = distinct.shapes, distinct.counts
    pixels = shapes[order].prod(axis=1)
    # As if aspect ratios cost nothing: what they cost is the next cut's business.
    ends, _ = cut(np.stack([pixels, np.ones_like(pixels)], axis=1), counts[order], num_superbuckets, limits.step_cost)
    groups: list[Group] = []
    total = 0
    for number, part in enumerate(np.split(order, ends[:-1])):
        aspect = shapes[part, 0] / shapes[part, 1]
        part = part[np.argsort(aspect, kind="stable")]
        inner_ends, inner_cost = cut(shapes[part], counts[part], num_aspects, limits.step_cost)
        groups += [(number, run) for run in np.split(part, inner_ends[:-1])]
        total += inner_cost
    return groups, total
