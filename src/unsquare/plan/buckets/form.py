"""Buckets: which images may share a micro-batch in b2b, decided once for all epochs.

There are three methods. `tree` splits again and again where that saves most, by height or by width. `iterative` and
`exact` cut the pixel count into superbuckets and each of them by aspect ratio (`grid`). All minimize the cost with
every image padded to its bucket's bound, over distinct shapes and their numbers of images, so that their time hardly
grows with the dataset. A bucket with too few images for one step then joins another, so that no image is alone in a
step if others could join it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from unsquare.plan.buckets.canvases import cheapest_canvas, choose_canvases
from unsquare.plan.buckets.distinct import DistinctShapes
from unsquare.plan.buckets.grid import ShapeGroup, back_and_forth, cheapest_grid, least_cost
from unsquare.plan.config import Counts, Limits, PlanConfig
from unsquare.plan.draw import CHUNK
from unsquare.plan.epoch import Bucket, Positions
from unsquare.plan.partition.tight import Split, best_split, cost_together
from unsquare.shapes import Shape, Sizes

USUAL_STEPS = 4
"""Average number of steps per bucket if the number of buckets is left open: enough that the images of a step change
from epoch to epoch."""
LEAST_BUCKETS, MOST_AUTOMATIC = 64, 4096
"""Bounds on the number of buckets if it is left open: few pictures of many shapes pad too much in a few buckets."""


@final
@dataclass(frozen=True, eq=False)
class Buckets:
    """The buckets of a dataset and the bucket of each image.

    Example:
        >>> import numpy as np
        >>> sizes = np.array([(400, 600), (600, 400)] * 8)
        >>> buckets = unsquare.form_buckets(sizes, unsquare.PlanConfig(steps="b2b", buckets=2), unsquare.Limits())
        >>> buckets.canvases
        (Shape(height=400, width=600), Shape(height=600, width=400))
    """

    canvases: tuple[Shape, ...]
    """The bound of each bucket, (K,), ordered by superbucket and aspect."""
    superbuckets: tuple[int, ...]
    """Superbucket of each bucket, (K,), 0 for the fewest pixels."""
    of_image: npt.NDArray[np.uint16]
    """The bucket of each image, (1, N), or upright and on its side, (2, N)."""

    @property
    def bounded(self) -> Sizes:
        """The canvases by ascending pixels, (K, 2): all that a plan may use if their number is bounded."""
        return np.array(sorted(self.canvases, key=lambda canvas: (canvas.pixels, canvas)), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.canvases)

    def of_epoch(self, turned: npt.NDArray[np.bool_] | None, images: Positions | None = None) -> tuple[Bucket, ...]:
        """The buckets with the images as they are turned in one epoch; empty buckets are left out.

        Args:
            turned: whether each image lies on its side in this epoch, (N,); None if none does.
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
    """Sort images into buckets of similar shape.

    If `config.canvases` bounds the canvases, a bucket is all images whose cheapest canvas is the same one.

    Args:
        sizes: training shapes, (N, 2) integers: height and width in pixels.
        config: at most how many buckets or canvases, and how boundaries are found.
        limits: what a micro-batch may hold, and what a launch costs.
        turns: whether images are turned by random quarter turns: then an image is upright in some epochs and on its
            side in others, so both shapes are sorted into buckets.

    Returns:
        At most `config.buckets` buckets, or a number chosen from the shapes, for `plan_epoch`.

    Example:
        >>> import numpy as np
        >>> sizes = np.array([(400, 600), (600, 400)] * 8)
        >>> config, limits = unsquare.PlanConfig(steps="b2b"), unsquare.Limits()
        >>> buckets = unsquare.form_buckets(sizes, config, limits)
        >>> plans = [unsquare.plan_epoch(sizes, config, limits, epoch, buckets=buckets) for epoch in range(2)]
    """
    sizes = np.asarray(sizes)
    distinct = DistinctShapes.of(sizes, turns=turns)
    if config.canvases is None:
        groups = _by_boundaries(distinct, config, limits)
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
    """Positions ordered by bucket, ascending within each bucket, in as few bytes as hold them."""
    if len(bucket_of) <= CHUNK:
        return np.argsort(bucket_of, kind="stable")
    # In chunks: NumPy sorts positions of 8 bytes each and needs as much working memory again.
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


def _least(distinct: DistinctShapes, limits: Limits) -> Callable[[Counts], Counts]:
    """The fewest images of a bucket: enough for a step, times the orientations that each image counts in."""
    return lambda canvas_pixels: distinct.orientations * limits.enough(canvas_pixels)


def _by_canvases(distinct: DistinctShapes, config: PlanConfig, limits: Limits) -> tuple[list[ShapeGroup], list[Sizes]]:
    """Distinct shapes by their cheapest canvas; superbuckets are canvases within a factor of two."""
    assert config.canvases is not None, "a bounded number of canvases"
    canvases = choose_canvases(distinct.shapes, distinct.counts, config.canvases, limits, config.multiple)
    if config.steps == "b2b":
        canvases = without_small(distinct.shapes, distinct.counts, canvases, _least(distinct, limits))
    cheapest = cheapest_canvas(distinct.shapes, canvases)
    groups = [(int(canvas.prod()).bit_length(), np.flatnonzero(cheapest == i)) for i, canvas in enumerate(canvases)]
    return groups, list(canvases)


def _by_boundaries(distinct: DistinctShapes, config: PlanConfig, limits: Limits) -> list[ShapeGroup]:
    """Cells of the cheapest grid, or leaves of the greedy tree in superbuckets of canvases within a factor of two."""
    most = config.buckets or _automatic_number(distinct, limits)
    if config.boundaries != "tree":
        return cheapest_grid(distinct, most, limits, back_and_forth if config.boundaries == "iterative" else least_cost)
    leaves = _leaves(distinct, limits, most)
    return [(int(distinct.shapes[leaf].max(axis=0).prod()).bit_length(), leaf) for leaf in leaves]


def _leaves(distinct: DistinctShapes, limits: Limits, most: int) -> Iterator[Positions]:
    shapes, counts, least = distinct.shapes, distinct.counts, _least(distinct, limits)

    def priced(part: Positions, serial: int) -> tuple[int, int, Positions, Split | None]:
        """An entry of the queue: what the best split adds to the cost (below 0 if it saves), and the split."""
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


def _automatic_number(distinct: DistinctShapes, limits: Limits) -> int:
    """As many buckets as there are if each has images for `USUAL_STEPS` steps, within bounds."""
    num_steps = (distinct.counts / limits.enough(distinct.shapes.prod(axis=1))).sum()
    usual = num_steps / (USUAL_STEPS * distinct.orientations)
    return int(np.clip(usual, LEAST_BUCKETS, MOST_AUTOMATIC))


def merge_small(
    shapes: Sizes,
    counts: Counts,
    groups: list[ShapeGroup],
    limits: Limits,
    least: Callable[[Counts], Counts] | None = None,
    canvases: Sizes | None = None,
) -> list[ShapeGroup]:
    """The groups after each with too few images has joined the one where that costs least.

    A group stays alone if every joint canvas would exceed the budget or is not among those allowed.

    Args:
        shapes: distinct shapes, (U, 2).
        counts: number of images of each shape, (U,).
        groups: number of the superbucket and positions in `shapes` of each bucket.
        limits: budget, launch and world size.
        least: from canvas pixels, the fewest images that a group may have; None takes `Limits.enough`.
        canvases: the only canvases allowed, (K, 2), by ascending pixels; None makes each tight.
    """
    groups = list(groups)
    least = least or limits.enough
    canvas = np.array([shapes[part].max(axis=0) for _, part in groups])  # (K, 2)
    number = np.array([counts[part].sum() for _, part in groups])
    stuck = np.zeros(len(groups), dtype=bool)
    while True:
        small = ~stuck & (number < least(canvas.prod(axis=1)))
        if not small.any() or len(groups) == 1:
            return groups
        smallest = int(np.where(small, number, np.iinfo(np.int64).max).argmin())
        joint = np.maximum(canvas, canvas[smallest])
        allowed = joint.prod(axis=1) <= limits.budget_pixels
        if canvases is not None:
            held_by = cheapest_canvas(joint, canvases)
            allowed = held_by >= 0
            joint = canvases[held_by]
        total = number + number[smallest]
        added = limits.step_cost(joint.prod(axis=1), total) - limits.step_cost(canvas.prod(axis=1), number)
        allowed[smallest] = False
        if not allowed.any():
            stuck[smallest] = True
            continue
        into = int(np.where(allowed, added, np.iinfo(np.int64).max).argmin())
        superbucket = max(groups[into][0], groups[smallest][0])
        groups[into] = (superbucket, np.concatenate([groups[into][1], groups[smallest][1]]))
        canvas[into] = joint[into]
        number[into] = total[into]
        stuck[into] = False
        del groups[smallest]
        canvas, number, stuck = (np.delete(each, smallest, axis=0) for each in (canvas, number, stuck))


def merge_for_epoch(buckets: tuple[Bucket, ...], limits: Limits, canvases: Sizes | None) -> tuple[Bucket, ...]:
    """The buckets of one epoch; those that turns or weights leave with less than two images per rank join others."""

    def least(canvas_pixels: Counts) -> Counts:
        return limits.world_size * np.minimum(limits.capacity(canvas_pixels), 2)

    bounds = np.array([bucket.canvas for bucket in buckets])
    counts = np.array([len(bucket.images) for bucket in buckets])
    alone = [(bucket.superbucket, np.array([number])) for number, bucket in enumerate(buckets)]
    groups = merge_small(bounds, counts, alone, limits, least, canvases)
    return tuple(_joined([buckets[i] for i in members], superbucket, canvases) for superbucket, members in groups)


def _joined(buckets: list[Bucket], superbucket: int, canvases: Sizes | None) -> Bucket:
    if len(buckets) == 1:
        return buckets[0]
    bound = np.array([bucket.canvas for bucket in buckets]).max(axis=0)
    if canvases is not None:
        bound = canvases[cheapest_canvas(bound[None], canvases)[0]]
    images = np.sort(np.concatenate([bucket.images for bucket in buckets]))
    return Bucket(images=images, canvas=Shape(int(bound[0]), int(bound[1])), superbucket=superbucket)


def without_small(shapes: Sizes, counts: Counts, canvases: Sizes, least: Callable[[Counts], Counts]) -> Sizes:
    """The canvases, (K, 2), without those used by fewer images than `least` which other canvases hold as well."""
    while len(canvases) > 1:
        cheapest = cheapest_canvas(shapes, canvases)
        number = np.bincount(cheapest, counts, minlength=len(canvases))
        for small in np.argsort(number, kind="stable"):
            others = np.delete(canvases, small, axis=0)
            too_few = number[small] < least(canvases[small].prod())
            if too_few and (cheapest_canvas(shapes[cheapest == small], others) >= 0).all():
                canvases = others
                break
        else:
            break
    return canvases
