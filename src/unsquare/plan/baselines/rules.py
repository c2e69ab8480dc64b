"""The rules by which other projects form batches, written from their descriptions; `peers` says whose they are.

Every rule is used in the form that serves it best. A batch that is padded is padded to its own largest height and
width. If a rule leaves the batch size to the user, the whole epoch is known in advance: `safe` takes the most images
with which no batch exceeds the budget, `typical` as many as the budget holds at mean size. If it leaves a grid to the
user, the cheapest of several is taken. Images left over at the end of an epoch form a smaller batch, although some
projects drop or repeat images there, so that all policies train on the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from unsquare.plan.analysis.table import PlanTable, epoch_cost, num_over_budget
from unsquare.plan.config import Counts, Limits
from unsquare.plan.draw import Order, Purpose
from unsquare.plan.epoch import Positions
from unsquare.shapes import Sizes

CELLS = 64
"""Cells of a grid."""

EpochOfCount = Callable[[int], PlanTable]
"""Number of images per batch -> the batches of an epoch."""
ByCount = Callable[[Sizes, int], EpochOfCount]
"""(sizes, seed) -> the epoch for each number of images per batch."""
BinnedValues = npt.NDArray[Any]
BinsOf = Callable[[BinnedValues, int], Positions]
"""(values (n,), number of bins) -> bin of each value, (n,)."""


def safe_count(epoch_of: EpochOfCount, num_images: int, limits: Limits) -> int:
    """The most images per batch with which no batch exceeds the budget, at least 1, by doubling and bisection."""
    fits, over = 1, 2
    while over <= num_images and not num_over_budget(epoch_of(over), limits):
        fits, over = over, 2 * over
    over = min(over, num_images + 1)
    while over - fits > 1:
        middle = (fits + over) // 2
        if num_over_budget(epoch_of(middle), limits):
            over = middle
        else:
            fits = middle
    return fits


def typical_count(sizes: Sizes, limits: Limits) -> int:
    """How many images of mean size the budget holds, at least 1 and at most all."""
    mean_pixels = float(sizes.prod(axis=1).mean())
    return min(max(int(limits.budget_pixels / mean_pixels), 1), len(sizes))


def safe(by_count: ByCount, sizes: Sizes, limits: Limits, seed: int) -> PlanTable:
    """The epoch of a rule of fixed count with the most images per batch that never exceed the budget."""
    epoch_of = by_count(sizes, seed)
    return epoch_of(safe_count(epoch_of, len(sizes), limits))


def typical(by_count: ByCount, sizes: Sizes, limits: Limits, seed: int) -> PlanTable:
    """The epoch of a rule of fixed count with as many images per batch as the budget holds at mean size."""
    return by_count(sizes, seed)(typical_count(sizes, limits))


# --- A fixed number of images ---


def _consecutive(sizes: Sizes, order: Positions, count: int) -> PlanTable:
    """Runs of `count` images along an order; the last run has the rest."""
    starts = np.arange(0, len(order), count)
    return PlanTable.of_runs(sizes, order, np.diff(starts, append=len(order)))


def random_batches(sizes: Sizes, seed: int) -> EpochOfCount:
    """Runs of a shuffle."""
    return partial(_consecutive, sizes, _shuffle(seed, len(sizes)))


def by_aspect(sizes: Sizes, seed: int) -> EpochOfCount:
    """Runs of the images sorted by height / width, the same in every epoch."""
    return partial(_consecutive, sizes, np.argsort(sizes[:, 0] / sizes[:, 1], kind="stable"))


def by_area(sizes: Sizes, seed: int) -> EpochOfCount:
    """Runs of the images sorted by pixel count, the same in every epoch."""
    return partial(_consecutive, sizes, _area_order(sizes))


def aspect_groups(bins_per_doubling: int, sizes: Sizes, seed: int) -> EpochOfCount:
    """Images of a shuffle collected in groups by height / width; a group that has enough images is a batch.

    Boundaries are 2**(i / k) for i from -k to k, k = `bins_per_doubling`; with k = 0 there is one, at 1.
    """
    k = bins_per_doubling
    boundaries = 2.0 ** (np.arange(-k, k + 1) / max(k, 1))
    groups = np.digitize(sizes[:, 0] / sizes[:, 1], boundaries)
    order = _shuffle(seed, len(sizes))

    def epoch_of(count: int) -> PlanTable:
        images, counts, completed = _fill(order, groups, np.full(len(boundaries) + 1, count))
        return PlanTable.of_runs(sizes, images, counts).in_order(np.argsort(completed))

    return epoch_of


def two_groups_joined(sizes: Sizes, seed: int) -> EpochOfCount:
    """Images of a shuffle collected as upright and other pictures; the rest of both at the end is joined."""
    groups = (sizes[:, 1] >= sizes[:, 0]).astype(np.int64)
    order = _shuffle(seed, len(sizes))

    def epoch_of(count: int) -> PlanTable:
        images, counts, completed = _fill(order, groups, np.full(2, count))
        full = counts == count
        rest = images[np.repeat(~full, counts)]
        rest_counts = np.diff(np.arange(0, len(rest), count), append=len(rest)) if len(rest) else rest
        sequence = np.concatenate([np.argsort(completed[full]), int(full.sum()) + np.arange(len(rest_counts))])
        images = np.concatenate([images[np.repeat(full, counts)], rest])
        return PlanTable.of_runs(sizes, images, np.concatenate([counts[full], rest_counts])).in_order(sequence)

    return epoch_of


# --- A count that follows the sizes ---


def count_by_largest(order: Positions, lengths: Counts, most: int) -> Positions:
    """Numbers of images of consecutive batches, each as large as count x largest lengths stays within `most`.

    Args:
        order: the order of the images, (n,).
        lengths: one or two lengths of each image, (N, 1 or 2); the largest of each are multiplied.
        most: the bound; an image alone above it is a batch by itself.
    """
    ordered = lengths[order]
    counts: list[int] = []
    count = high = wide = 0
    for first, last in zip(ordered[:, 0].tolist(), ordered[:, -1].tolist()):
        if ordered.shape[1] == 1:
            last = 1
        higher, wider = max(high, first), max(wide, last)
        if count and (count + 1) * higher * wider > most:
            counts.append(count)
            count, higher, wider = 0, first, last
        count, high, wide = count + 1, higher, wider
    return np.array([*counts, count])


def count_by_sum(order: Positions, lengths: Counts, most: int) -> Positions:
    """Numbers of images of consecutive batches, each as large as the sum of its lengths stays within `most`."""
    counts: list[int] = []
    count = total = 0
    for length in lengths[order].tolist():
        if count and total + length > most:
            counts.append(count)
            count = total = 0
        count, total = count + 1, total + length
    return np.array([*counts, count])


def fairseq_pixels(sizes: Sizes, limits: Limits, seed: int) -> PlanTable:
    """Sorted by pixels and cut where count x most pixels would exceed the budget; then batches are shuffled."""
    order = _area_order(sizes)
    counts = count_by_largest(order, sizes.prod(axis=1, keepdims=True), limits.budget_pixels)
    return _shuffled_batches(PlanTable.of_runs(sizes, order, counts), seed)


def fairseq_canvas(sizes: Sizes, limits: Limits, seed: int) -> PlanTable:
    """Sorted by pixels and cut where count x largest height x largest width would exceed the budget, then shuffled."""
    order = _area_order(sizes)
    counts = count_by_largest(order, sizes, limits.budget_pixels)
    return _shuffled_batches(PlanTable.of_runs(sizes, order, counts), seed)


def deepspeed_random(sizes: Sizes, limits: Limits, seed: int) -> PlanTable:
    """A shuffle cut where the sum of pixels would exceed the budget."""
    order = _shuffle(seed, len(sizes))
    return PlanTable.of_runs(sizes, order, count_by_sum(order, sizes.prod(axis=1), limits.budget_pixels))


def deepspeed_sorted(sizes: Sizes, limits: Limits, seed: int) -> PlanTable:
    """Images by ascending pixels, cut where the sum would exceed the budget."""
    order = _area_order(sizes)
    return PlanTable.of_runs(sizes, order, count_by_sum(order, sizes.prod(axis=1), limits.budget_pixels))


# --- Buckets ---


def resolutions_of(area: float) -> Sizes:
    """Canvases of similar pixel count: both sides multiples of one step, at most `area` pixels, aspects up to 1 : 4.

    Proportions are those of the defaults at 512 x 512 (sides 256 to 1024 in steps of 64), so a step is an eighth of
    the square's side, rounded down to a multiple of 8.
    """
    side = area**0.5
    step = max(int(side / 8) // 8 * 8, 8)
    square = max(int(side // step) * step, step)
    found = {(square, square)}
    for width in range(max(square // 2 // step, 1) * step, 2 * square + 1, step):
        height = min(int(area // width) // step * step, 2 * square)
        if height >= max(square // 2, step):
            found |= {(height, width), (width, height)}
    return np.array(sorted(found))


def fixed_resolutions_resized(sizes: Sizes, limits: Limits, seed: int) -> PlanTable:
    """Every picture resized and cropped to the canvas of nearest aspect; canvases have about the mean pixel count."""
    canvases = resolutions_of(float(sizes.prod(axis=1).mean()))
    aspects = canvases[:, 1] / canvases[:, 0]
    bucket = np.array([np.abs(aspects - aspect).argmin() for aspect in (sizes[:, 1] / sizes[:, 0]).tolist()])
    return _on_canvases(sizes, bucket, canvases, limits, seed)


def fixed_resolutions_padded(sizes: Sizes, limits: Limits, seed: int) -> PlanTable:
    """Every picture padded to the next multiples of a step, the cheapest of 8, 16, ... 1024."""
    return _cheapest((_on_multiples(sizes, 2**power, limits, seed) for power in range(3, 11)), limits)


def _on_multiples(sizes: Sizes, step: int, limits: Limits, seed: int) -> PlanTable:
    rounded = -(-sizes // step)
    widest = int(rounded[:, 1].max()) + 1
    keys, bucket = np.unique(rounded[:, 0] * widest + rounded[:, 1], return_inverse=True)
    canvases = np.stack(np.divmod(keys, widest), axis=1) * step
    return _on_canvases(sizes, bucket, canvases, limits, seed)


def two_level_bins(sizes: Sizes, limits: Limits, seed: int) -> PlanTable:
    """Batches drawn from the cells of `two_level_cells`."""
    return _from_cells(sizes, two_level_cells(sizes, limits, seed), limits, seed)


def two_level_cells(sizes: Sizes, limits: Limits, seed: int) -> Positions:
    """Cell of each image, (N,): bins of equal total height, each cut by equal total width, in the cheapest grid."""
    return _cheapest_cells(sizes, sizes[:, 0], sizes[:, 1], _equal_totals, limits, seed)


def quantile_grid(sizes: Sizes, limits: Limits, seed: int) -> PlanTable:
    """Equal numbers of images by pixel count, each cut into equal numbers by aspect, in the cheapest grid."""
    pixels, aspect = sizes.prod(axis=1), sizes[:, 0] / sizes[:, 1]
    return _from_cells(sizes, _cheapest_cells(sizes, pixels, aspect, _equal_numbers, limits, seed), limits, seed)


def _cheapest_cells(
    sizes: Sizes, outer: BinnedValues, inner: BinnedValues, bins_of: BinsOf, limits: Limits, seed: int
) -> Positions:
    trials = (_cells(outer, inner, 2**power, bins_of) for power in range(CELLS.bit_length()))
    return min(trials, key=lambda cell: epoch_cost(_from_cells(sizes, cell, limits, seed), limits))


def _cells(outer: BinnedValues, inner: BinnedValues, num_outer: int, bins_of: BinsOf) -> Positions:
    """Cell of each image, (N,), in a grid of bins by `outer`, each cut into bins by `inner`; no cell is empty."""
    outer_bin = bins_of(outer, num_outer)
    cell = np.empty(len(outer), dtype=np.int64)
    for number in range(num_outer):
        members = np.flatnonzero(outer_bin == number)
        if len(members):
            cell[members] = number * CELLS + bins_of(inner[members], CELLS // num_outer)
    return np.unique(cell, return_inverse=True)[1]


def _equal_totals(values: BinnedValues, num_bins: int) -> Positions:
    """Bin of each value, (n,): bins of near-equal sums, equal values in one bin."""
    ordered = np.sort(values)
    totals = np.cumsum(ordered)
    wanted = totals[-1] * np.arange(1, num_bins) / num_bins
    return np.searchsorted(ordered[np.searchsorted(totals, wanted)], values)


def _equal_numbers(values: BinnedValues, num_bins: int) -> Positions:
    """Bin of each value, (n,): bins of near-equal numbers of values, equal values in one bin."""
    ordered = np.sort(values)
    return np.searchsorted(ordered[len(ordered) * np.arange(1, num_bins) // num_bins], values)


def _from_cells(sizes: Sizes, bucket: Positions, limits: Limits, seed: int) -> PlanTable:
    """Batches on tight canvases, each from one bucket, with as many images as the budget holds at its bound."""
    bounds = np.zeros((int(bucket.max()) + 1, 2), dtype=np.int64)
    np.maximum.at(bounds, bucket, sizes)
    images, counts, _ = _fill(_shuffle(seed, len(sizes)), bucket, _capacities(bounds, limits))
    return _shuffled_batches(PlanTable.of_runs(sizes, images, counts), seed)


def _on_canvases(sizes: Sizes, bucket: Positions, canvases: Sizes, limits: Limits, seed: int) -> PlanTable:
    """Batches on the canvas of their bucket, whatever their images."""
    images, counts, _ = _fill(_shuffle(seed, len(sizes)), bucket, _capacities(canvases, limits))
    first = np.cumsum(counts) - counts
    return _shuffled_batches(PlanTable.of_runs(sizes, images, counts, canvases[bucket[images[first]]]), seed)


# --- Shared ---


def _capacities(canvases: Sizes, limits: Limits) -> Positions:
    return np.maximum(limits.budget_pixels // canvases.prod(axis=1), 1)


def _fill(order: Positions, groups: Positions, capacities: Positions) -> tuple[Positions, Positions, Positions]:
    """Images taken along an order into the open batch of their group, which closes when it is full.

    Args:
        order: the order of the images, (n,).
        groups: group of each image, (N,).
        capacities: images of a full batch of each group, (groups,).

    Returns:
        Images group after group, (n,); images of each batch, (M,); and position in `order` of its last image, (M,).
    """
    places = np.argsort(groups[order], kind="stable")
    ordered_groups = groups[order[places]]
    first_of_group = np.searchsorted(ordered_groups, ordered_groups)
    starts = np.flatnonzero((np.arange(len(order)) - first_of_group) % capacities[ordered_groups] == 0)
    counts = np.diff(starts, append=len(order))
    return order[places], counts, places[starts + counts - 1]


def _cheapest(trials: Iterable[PlanTable], limits: Limits) -> PlanTable:
    return min(trials, key=lambda trial: epoch_cost(trial, limits))


def _shuffle(seed: int, length: int) -> Positions:
    return Order(seed, 0, Purpose.ORDER, length).all()


def _shuffled_batches(batches: PlanTable, seed: int) -> PlanTable:
    return batches.in_order(Order(seed, 0, Purpose.STEPS, len(batches)).all())


def _area_order(sizes: Sizes) -> Positions:
    return np.argsort(sizes.prod(axis=1), kind="stable")
