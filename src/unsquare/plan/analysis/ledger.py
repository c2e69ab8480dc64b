"""The ledger of a plan: what is computed, how much of it is padding, how full micro-batches are and how fair steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unsquare.plan.analysis.lower_bound import plan_lower_bound
from unsquare.plan.analysis.table import PlanTable, step_costs
from unsquare.plan.config import Counts, Limits, PlanConfig, StepForm
from unsquare.plan.draw import Order, Purpose
from unsquare.plan.epoch import EpochPlan
from unsquare.progress import Progress
from unsquare.shapes import Shape

HEADING = ("super", "canvas", "images", "batches", "min/median/max", "overhead", "skew")
MOST_ROWS = 16
"""The most buckets in a printed table; JSON has all of them."""


@dataclass(frozen=True, kw_only=True)
class BucketFigures:
    """A bucket in b2b; in mixed, all micro-batches whose canvas pixels lie between the same two powers of two."""

    superbucket: int
    canvas: Shape
    """The bucket's bound; in mixed, the largest canvas among these micro-batches."""
    num_images: int
    num_micro_batches: int
    smallest_batch: int
    """Images of the smallest micro-batch."""
    median_batch: float
    largest_batch: int
    real_pixels: int
    padding_overhead: float
    class_skew: float | None
    """Total variation distance, 0 to 1, of the class mix from the dataset's; None without labels."""


@dataclass(frozen=True, kw_only=True)
class FallbackRow:
    """The images that are run by a fallback, each alone."""

    name: str
    num_images: int
    largest_pixels: int
    """Computed pixels of the largest."""
    price: float
    """Time of a pixel over its usual time."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What a plan computes, and how much of it is waste."""

    steps: StepForm
    """The form of the steps."""
    num_images: int
    num_steps: int
    num_micro_batches: int
    num_canvases: int
    real_pixels: int
    """Pixels of the images; no plan computes fewer."""
    computed_pixels: int
    priced_pixels: int
    """Computed pixels, those of images run by a fallback at its price: as many as take as long in the usual way."""
    padding_overhead: float
    """Computed pixels / real pixels - 1."""
    max_micro_batch_pixels: int
    mean_fill: float
    """Computed pixels of a micro-batch / the most that its strategy holds, averaged over micro-batches."""
    median_fill: float
    rank_imbalance: float
    """Cost of a step's busiest rank / mean of its ranks, weighted by cost; 1 is perfect."""
    predicted_s: float
    """Seconds that the epoch takes at the limits' speed: computed pixels and launches of each step's busiest rank."""
    least_micro_batches: int
    """A lower bound: no partition of these steps (in b2b, of this epoch) into micro-batches within budget has fewer."""
    least_s: float
    """A lower bound on the seconds of any such partition, with ranks in perfect balance."""
    time_over_least: float
    """predicted_s / least_s: a better plan is faster by at most this factor."""
    step_class_skew: float | None
    """Total variation distance of a step's class mix from the epoch's, averaged over steps; None without labels."""
    chance_class_skew: float | None
    """The same with labels shuffled: its value if shapes said nothing about classes."""
    fallbacks: tuple[FallbackRow, ...]
    """Those that the plan needs; none where all fits as it is."""
    buckets: tuple[BucketFigures, ...]

    def to_dict(self) -> dict[str, Any]:
        """The ledger as plain values, ready for JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each summary line, for a table."""
        rows = [
            ("images", f"{self.num_images:,}"),
            ("steps", f"{self.num_steps:,} {self.steps}"),
            ("micro-batches", f"{self.num_micro_batches:,}; the budget alone needs {self.least_micro_batches:,}"),
            ("distinct canvases", f"{self.num_canvases:,}"),
            ("real pixels", f"{_pixels_text(self.real_pixels)}, the least that can be computed"),
            ("computed pixels", _pixels_text(self.computed_pixels)),
            ("padding overhead", f"{self.padding_overhead:.2%}"),
            ("largest micro-batch", _pixels_text(self.max_micro_batch_pixels)),
            ("fill, mean and median", f"{self.mean_fill:.0%}, {self.median_fill:.0%}"),
            (
                "predicted time",
                f"{_seconds_text(self.predicted_s)}; however batched, at least {_seconds_text(self.least_s)}",
            ),
        ]
        for each in self.fallbacks:
            rows.append(
                (
                    f"by {each.name}",
                    f"{each.num_images:,} images above the budget, up to {_pixels_text(each.largest_pixels)}, at "
                    f"{each.price:.2f} times the time",
                )
            )
        if self.rank_imbalance > 1:
            rows.append(("busiest rank over mean", f"{self.rank_imbalance:.3f}"))
        if self.step_class_skew is not None:
            rows.append(
                (
                    "class skew per step",
                    f"{self.step_class_skew:.3f} ({self.chance_class_skew:.3f} by chance)",
                )
            )
        return rows

    def bucket_rows(self) -> list[tuple[str, ...]]:
        """A heading and one line per bucket, for a table; of more than `MOST_ROWS`, those that pad the most pixels."""
        padded = np.array([row.real_pixels * row.padding_overhead for row in self.buckets])
        shown = np.sort(np.argsort(-padded, kind="stable")[:MOST_ROWS])
        return [HEADING, *(_bucket_text(self.buckets[row]) for row in shown)]

    @property
    def num_hidden_rows(self) -> int:
        """Number of buckets that `bucket_rows` leaves out."""
        return max(len(self.buckets) - MOST_ROWS, 0)


def ledger(
    plan: EpochPlan,
    config: PlanConfig,
    limits: Limits,
    labels: npt.ArrayLike | None = None,
    num_classes: int = 0,
    progress: Progress | None = None,
    table: PlanTable | None = None,
) -> Ledger:
    """The ledger of a plan.

    Args:
        plan: what `plan_epoch` returned.
        config: the settings that it was made with.
        limits: the limits that it was made with.
        labels: class of each planned image, (N,), -1 where unknown; None leaves class skew out.
        num_classes: number of classes; 0 means one more than the largest label.
        progress: told the number of steps planned and of all steps.
        table: the table of the plan, if it was made before.
    """
    table = PlanTable.of_plan(plan, progress) if table is None else table
    classes = None if labels is None else np.asarray(labels, dtype=np.int64)
    if classes is not None and (len(classes) == 0 or classes.max() < 0):
        classes = None
    if classes is not None:
        num_classes = max(num_classes, int(classes.max()) + 1)
    skew, chance = (None, None) if classes is None else step_skews(table, classes, num_classes, plan)
    computed, real = table.computed_pixels, int(table.real_pixels.sum())
    fill = limits.fill(computed)
    busiest, mean = step_costs(table, limits)
    busiest_cost = int(busiest.sum())
    bound = plan_lower_bound(table, limits)
    return Ledger(
        steps=config.steps,
        num_images=len(table.images),
        num_steps=len(plan.steps),
        num_micro_batches=len(table),
        num_canvases=len(np.unique(table.canvas, axis=0)),
        real_pixels=real,
        computed_pixels=int(computed.sum()),
        priced_pixels=int(limits.priced(computed).sum()),
        padding_overhead=float(computed.sum() / real - 1),
        max_micro_batch_pixels=int(computed.max()),
        mean_fill=float(fill.mean()),
        median_fill=float(np.median(fill)),
        rank_imbalance=float(busiest_cost / mean.sum()),
        predicted_s=busiest_cost / limits.pixels_per_s,
        least_micro_batches=bound.micro_batches,
        least_s=bound.cost / limits.world_size / limits.pixels_per_s,
        time_over_least=busiest_cost * limits.world_size / bound.cost,
        step_class_skew=None if skew is None else float(skew.mean()),
        chance_class_skew=None if chance is None else float(chance.mean()),
        fallbacks=_fallback_rows(computed, limits),
        buckets=_bucket_figures(plan, table, classes, num_classes),
    )


def _fallback_rows(computed: Counts, limits: Limits) -> tuple[FallbackRow, ...]:
    needed = limits.fallback_of(computed)
    return tuple(
        FallbackRow(
            name=each.name,
            num_images=int((needed == number).sum()),
            largest_pixels=int(computed[needed == number].max()),
            price=each.price,
        )
        for number, each in enumerate(limits.fallbacks, 1)
        if (needed == number).any()
    )


def class_skew(group: Counts, labels: npt.NDArray[np.int64], num_classes: int) -> npt.NDArray[np.float64]:
    """Total variation distance of each group's class mix from that of all, (groups,); 0 in groups without labels.

    Args:
        group: number of each image's group, (N,).
        labels: class of each image, (N,), -1 where unknown.
        num_classes: number of classes.
    """
    known = labels >= 0
    num_groups = int(group.max()) + 1
    counts = np.bincount(group[known] * num_classes + labels[known], minlength=num_groups * num_classes)
    counts = counts.reshape(num_groups, num_classes)
    mix = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    distance = np.abs(mix - counts.sum(axis=0) / max(counts.sum(), 1)).sum(axis=1) / 2
    return np.where(counts.any(axis=1), distance, 0.0)


def step_skews(
    table: PlanTable, labels: npt.NDArray[np.int64], num_classes: int, plan: EpochPlan
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Class skew of each step, and its value by chance, both (S,).

    For chance, classes are shuffled over the positions of the epoch, not over the dataset: where images have weights,
    their classes appear as often as before.
    """
    steps, classes = table.step_of_image, labels[table.images]
    chance = classes[Order(plan.seed, plan.epoch, Purpose.CHANCE, len(classes)).all()]
    return class_skew(steps, classes, num_classes), class_skew(steps, chance, num_classes)


def _bucket_figures(
    plan: EpochPlan, table: PlanTable, labels: npt.NDArray[np.int64] | None, num_classes: int
) -> tuple[BucketFigures, ...]:
    row_of_batch, superbuckets, canvases = _grouping(plan, table)
    row_of_image = row_of_batch[table.batch_of_image]
    real = np.bincount(row_of_batch, table.real_pixels)
    computed = np.bincount(row_of_batch, table.computed_pixels)
    skew = None if labels is None else class_skew(row_of_image, labels[table.images], num_classes)
    order = np.argsort(row_of_batch, kind="stable")
    counts = np.split(table.count[order], np.cumsum(np.bincount(row_of_batch, minlength=len(canvases)))[:-1])
    return tuple(
        BucketFigures(
            superbucket=superbuckets[row],
            canvas=canvases[row],
            num_images=int(count.sum()),
            num_micro_batches=len(count),
            smallest_batch=int(count.min()),
            median_batch=float(np.median(count)),
            largest_batch=int(count.max()),
            real_pixels=int(real[row]),
            padding_overhead=float(computed[row] / real[row] - 1),
            class_skew=None if skew is None else float(skew[row]),
        )
        for row, count in enumerate(counts)
    )


def _grouping(plan: EpochPlan, table: PlanTable) -> tuple[Counts, list[int], list[Shape]]:
    """Row of each micro-batch, (M,), then superbucket and canvas of each row."""
    if plan.buckets:
        buckets = plan.buckets
        return table.bucket, [b.superbucket for b in buckets], [b.canvas for b in buckets]
    pixels = table.canvas.prod(axis=1)
    _, rows = np.unique(np.floor(np.log2(pixels)), return_inverse=True)
    num_rows = int(rows.max()) + 1
    largest = [int(np.where(rows == row, pixels, 0).argmax()) for row in range(num_rows)]
    return rows, list(range(num_rows)), [Shape(*map(int, table.canvas[batch])) for batch in largest]


def _bucket_text(row: BucketFigures) -> tuple[str, ...]:
    return (
        f"{row.superbucket}",
        f"{row.canvas}",
        f"{row.num_images:,}",
        f"{row.num_micro_batches:,}",
        f"{row.smallest_batch}/{row.median_batch:g}/{row.largest_batch}",
        f"{row.padding_overhead:.1%}",
        "" if row.class_skew is None else f"{row.class_skew:.2f}",
    )


def _pixels_text(pixels: int) -> str:
    for unit, size in (("GP", 10**9), ("MP", 10**6), ("kP", 10**3)):
        if pixels >= size:
            return f"{pixels / size:,.2f} {unit}"
    return f"{pixels} P"


def _seconds_text(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
