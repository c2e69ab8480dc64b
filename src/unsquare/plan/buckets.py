"""Buckets: which images may share a micro-batch in b2b, decided once for all epochs.

Two ways to the same thing. `tree` always splits where it saves most, by height or by width.
`iterative` cuts the pixel count into superbuckets and each of them by aspect ratio, both with the
back-and-forth heuristic. What they make small is the cost with every image padded to its bucket's bound.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from unsquare.plan.boundaries import back_and_forth
from unsquare.plan.config import Limits, PlanConfig
from unsquare.plan.epoch import Bucket, Positions, canvas_of
from unsquare.plan.split import Split, best_split, cost_together
from unsquare.shapes import Sizes

Group = tuple[int, Positions]
"""A superbucket's number and positions of images."""


def form_buckets(
    sizes: npt.ArrayLike, config: PlanConfig, limits: Limits, *, turns: bool = False
) -> tuple[Bucket, ...]:
    """At most `config.buckets` buckets of these training shapes, (N, 2), ordered by superbucket and aspect.

    With `turns` an image lies upright in some epochs and on its side in others, so both shapes are sorted
    into buckets: positions N and above are the images turned by a quarter.
    """
    shapes = np.asarray(sizes, dtype=np.int64)
    if turns:
        shapes = np.concatenate([shapes, shapes[:, ::-1]])
    form = _by_tree if config.boundaries == "tree" else _by_pixels_then_aspect
    buckets = (
        Bucket(images=np.sort(images), canvas=canvas_of(shapes, images), superbucket=superbucket)
        for superbucket, images in form(shapes, config.buckets, limits)
    )
    return tuple(sorted(buckets, key=lambda b: (b.superbucket, b.canvas.height / b.canvas.width)))


def of_epoch(buckets: tuple[Bucket, ...], turned: npt.NDArray[np.bool_]) -> tuple[Bucket, ...]:
    """The buckets with the images as they lie in one epoch; those without any are gone.

    Args:
        buckets: what `form_buckets` returned, with or without turns.
        turned: whether each image lies on its side this epoch, (N,).
    """
    num_shapes = sum(len(bucket.images) for bucket in buckets)
    if num_shapes == len(turned):
        return buckets
    assert num_shapes == 2 * len(turned), "buckets and images are not of the same dataset"
    bucket_of = np.empty(num_shapes, dtype=np.int64)
    for number, bucket in enumerate(buckets):
        bucket_of[bucket.images] = number
    bucket_now = bucket_of[np.arange(len(turned)) + len(turned) * turned]
    members = (np.flatnonzero(bucket_now == number) for number in range(len(buckets)))
    return tuple(
        Bucket(images=images, canvas=bucket.canvas, superbucket=bucket.superbucket)
        for bucket, images in zip(buckets, members)
        if len(images)
    )


def _by_tree(sizes: Sizes, most: int, limits: Limits) -> list[Group]:
    """Leaves of the greedy tree; canvases of like pixel count, to a factor of two, form a superbucket."""
    leaves = list(_leaves(sizes, most, limits))
    octaves = [canvas_of(sizes, images).pixels.bit_length() for images in leaves]
    numbers = {octave: number for number, octave in enumerate(sorted(set(octaves)))}
    return [(numbers[octave], images) for octave, images in zip(octaves, leaves)]


def _leaves(sizes: Sizes, most: int, limits: Limits) -> Iterator[Positions]:
    open_leaves = [_priced(sizes, np.arange(len(sizes)), limits, serial=0)]
    num_leaves = 1
    while open_leaves:
        saving, _, images, split = heapq.heappop(open_leaves)
        if split is None or saving >= 0 or num_leaves == most:
            yield images
            continue
        for serial, part in enumerate((split.first, split.second)):
            heapq.heappush(open_leaves, _priced(sizes, part, limits, 2 * num_leaves + serial))
        num_leaves += 1


def _priced(sizes: Sizes, images: Positions, limits: Limits, serial: int) -> tuple[int, int, Positions, Split | None]:
    """An entry of the queue: what the best split adds to the cost (below 0 where it saves), and the split."""
    if len(images) == 1:
        return 0, serial, images, None
    split = best_split(sizes, images, limits)
    return split.cost - cost_together(sizes, images, limits), serial, images, split


def _by_pixels_then_aspect(sizes: Sizes, most: int, limits: Limits) -> list[Group]:
    """The cheapest grid among those whose number of superbuckets is a power of two."""
    order = np.argsort(sizes.prod(axis=1), kind="stable")
    trials = [_grid(sizes, order, 2**power, most // 2**power, limits) for power in range(most.bit_length())]
    return min(trials, key=lambda trial: trial[1])[0]


def _grid(
    sizes: Sizes, order: Positions, num_superbuckets: int, num_aspects: int, limits: Limits
) -> tuple[list[Group], int]:
    """Superbuckets by pixel count, each cut into `num_aspects` buckets by aspect; and what they cost."""
    pixels = sizes[order].prod(axis=1)
    # As if aspect ratios cost nothing: what they cost is the next cut's business.
    ends, _ = back_and_forth(np.stack([pixels, np.ones_like(pixels)], axis=1), num_superbuckets, limits)
    groups: list[Group] = []
    total = 0
    for number, images in enumerate(np.split(order, ends[:-1])):
        aspect = sizes[images, 0] / sizes[images, 1]
        images = images[np.argsort(aspect, kind="stable")]
        inner_ends, inner_cost = back_and_forth(sizes[images], num_aspects, limits)
        groups += [(number, part) for part in np.split(images, inner_ends[:-1])]
        total += inner_cost
    return groups, total
