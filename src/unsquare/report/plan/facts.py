"""What the page on a plan shows, as numbers: no markup, no drawing.

The plan is walked through once, into a table. What other choices would cost is measured by planning again, on
a sample where there are many images: a page is looked at now, and half an epoch of them tells nothing new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unsquare.plan.analysis.ledger import Ledger, ledger
from unsquare.plan.analysis.table import PlanTable
from unsquare.plan.config import Limits, PlanConfig, StepForm
from unsquare.plan.epoch import EpochPlan, Positions
from unsquare.plan.planner import plan_epoch
from unsquare.report.kit.statistics import FloatArray
from unsquare.shapes import Shape, Sizes

SAMPLE_IMAGES = 25_000
"""Images that other choices are planned on. With all 498,645 of a large collection their overheads in mixed
steps are the same to 0.1 %, since steps are drawn at random."""
STEP_IMAGES = tuple(2**power for power in range(4, 12))
NUM_BUCKETS = tuple(2**power for power in range(10))
SHUFFLED_BATCH = 8
_MOST_BLOCKS = 9
_DRAWS = 51

Labels = npt.NDArray[np.int64]


class DrawnBatch(NamedTuple):
    """One micro-batch as it is drawn."""

    canvas: Shape
    sizes: Sizes
    """Shapes of its images, (n, 2)."""

    @property
    def overhead(self) -> float:
        """Its padding overhead."""
        return self.canvas.pixels * len(self.sizes) / int(self.sizes.prod(axis=1).sum()) - 1


class Example(NamedTuple):
    """Some images batched twice: as a shuffle has them, and as planned."""

    shuffled: DrawnBatch
    planned: list[DrawnBatch]
    """A mixed step's micro-batches, or in b2b one of each of a few buckets; largest canvas first."""

    @property
    def drawn(self) -> list[DrawnBatch]:
        """Those few that are drawn, from the largest to the smallest."""
        return [self.planned[at] for at in _evenly(len(self.planned))]

    @property
    def num_images(self) -> int:
        """Images of all of them."""
        return sum(len(block.sizes) for block in self.planned)

    @property
    def padding_overhead(self) -> float:
        """Over all of them."""
        computed = sum(block.canvas.pixels * len(block.sizes) for block in self.planned)
        return computed / sum(int(block.sizes.prod(axis=1).sum()) for block in self.planned) - 1


class CanvasGroup(NamedTuple):
    """Micro-batches of one bucket, or in mixed of one doubling of the canvas's pixels."""

    canvas_pixels: int
    computed_pixels: int
    padding_overhead: float
    mean_fill: float


class Trial(NamedTuple):
    """What one choice would cost."""

    value: int
    padding_overhead: float
    num_micro_batches: float
    """Of all images, where a sample was planned in proportion."""
    predicted_s: float
    class_skew: float | None
    chance_class_skew: float | None


def seconds_on_one(figures: Ledger, limits: Limits) -> float:
    """Seconds of an epoch where one device does all the work."""
    return (figures.priced_pixels + limits.launch_pixels * figures.num_micro_batches) / limits.pixels_per_s


def groups_of(table: PlanTable, limits: Limits) -> list[CanvasGroup]:
    """The rows of the ledger's table, smallest canvas first, with fill."""
    computed, real, pixels = table.computed_pixels, table.real_pixels, table.canvas.prod(axis=1)
    group = table.bucket
    if (group < 0).any():
        group = np.floor(np.log2(pixels)).astype(np.int64)
    rows = []
    for number in np.unique(group):
        inside = group == number
        rows.append(
            CanvasGroup(
                canvas_pixels=int(pixels[inside].max()),
                computed_pixels=int(computed[inside].sum()),
                padding_overhead=float(computed[inside].sum() / real[inside].sum() - 1),
                mean_fill=float(limits.fill(computed[inside]).mean()),
            )
        )
    return sorted(rows, key=lambda row: row.canvas_pixels)


def example_of(table: PlanTable) -> Example:
    """A typical step: in mixed the one of median overhead; in b2b steps of a few buckets, evenly through the work."""
    if (table.bucket < 0).any():
        computed, real = np.bincount(table.step, table.computed_pixels), np.bincount(table.step, table.real_pixels)
        chosen = np.flatnonzero(table.step == _median_position(computed / real))
    else:
        by_canvas = np.argsort(table.canvas.prod(axis=1), kind="stable")
        done = np.cumsum(table.computed_pixels[by_canvas])
        parts = (np.arange(_MOST_BLOCKS) + 0.5) / _MOST_BLOCKS * done[-1]
        through = by_canvas[np.minimum(np.searchsorted(done, parts), len(by_canvas) - 1)]
        _, first = np.unique(table.bucket[through], return_index=True)
        chosen = through[first]
    blocks = [_block(table, int(row)) for row in chosen]
    blocks.sort(key=lambda block: (-block.canvas.pixels, -len(block.sizes)))
    return Example(_typical_shuffle(np.concatenate([block.sizes for block in blocks])), blocks)


class Excess(NamedTuple):
    """The class that is most over-represented in a part of the images."""

    label: int
    share: float
    """Its part of the images there."""
    share_of_all: float


def excess_by_quarter(sizes: Sizes, labels: Labels, num_classes: int) -> list[Excess]:
    """For each quarter of the labelled images by pixels, smallest first, the class most in excess there.

    Nothing where all have the same number of pixels.
    """
    pixels = sizes.prod(axis=1)
    # Images of equal size in random order: in the order of their names they would stand class by class.
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(pixels[order], kind="stable")]
    ordered = labels[order][labels[order] >= 0]
    if pixels.min() == pixels.max():
        return []
    every = np.bincount(ordered, minlength=num_classes) / max(len(ordered), 1)
    found = []
    for part in np.array_split(ordered, 4):
        if len(part):
            mix = np.bincount(part, minlength=num_classes) / len(part)
            label = int((mix - every).argmax())
            found.append(Excess(label, float(mix[label]), float(every[label])))
    return found


def sample_of(num_images: int, seed: int) -> Positions:
    """Positions of the images that other choices are planned on, ascending."""
    if num_images <= SAMPLE_IMAGES:
        return np.arange(num_images)
    return np.sort(np.random.default_rng(seed).permutation(num_images)[:SAMPLE_IMAGES])


class Study:
    """Plans again with other choices, on a sample of the images, each of which comes once."""

    def __init__(
        self, plan: EpochPlan, config: PlanConfig, limits: Limits, labels: Labels | None, num_classes: int
    ) -> None:
        rows = sample_of(len(plan.sizes), plan.seed)
        turned = (plan.turns[rows] % 2).astype(bool)
        self._sizes = np.where(turned[:, None], plan.sizes[rows][:, ::-1], plan.sizes[rows])
        self._turns = bool(plan.turns.any())
        self._labels = None if labels is None else labels[rows]
        self._num_classes = num_classes
        self._config = replace(config, sampling="once", min_scale=None)  # the plan's shapes are scaled already
        self._epoch, self._limits = plan.epoch, limits
        self._own_buckets = len(plan.buckets)
        self._part = float(self._sizes.prod(axis=1).sum() / plan.sizes.prod(axis=1).sum())
        self._num_planned = len(plan.sizes)
        self.num_images = len(rows)
        """Images in the sample."""

    def values(self, form: StepForm) -> list[int]:
        """The choices tried: step sizes in mixed, numbers of buckets in b2b, the user's own among them."""
        usual = STEP_IMAGES if form == "mixed" else NUM_BUCKETS
        own = self._config.most_images(self._num_planned) if form == "mixed" else self._own_buckets
        tried = {min(value, self.num_images) for value in usual}
        if form == self._config.steps:
            tried.add(min(own, self.num_images))
        return sorted(tried)

    def trial(self, form: StepForm, value: int) -> Trial:
        """What an epoch costs with steps of `value` images (mixed), or in `value` buckets (b2b)."""
        if form == "mixed":
            config = replace(self._config, steps=form, step_images=value)
        else:  # bounded canvases would leave no choice of buckets
            config = replace(self._config, steps=form, step_images=None, buckets=value, canvases=None, min_images=None)
        plan = plan_epoch(self._sizes, config, self._limits, self._epoch, turns=self._turns)
        figures = ledger(plan, config, self._limits, self._labels, self._num_classes)
        return Trial(
            value=value,
            padding_overhead=figures.padding_overhead,
            num_micro_batches=figures.num_micro_batches * self._num_planned / self.num_images,
            predicted_s=figures.predicted_s / self._part,
            class_skew=figures.step_class_skew,
            chance_class_skew=figures.chance_class_skew,
        )


def trials_of(study: Study, done: Callable[[], None]) -> dict[StepForm, Sequence[Trial]]:
    """Every trial of both forms; `done` is called after each."""
    found: dict[StepForm, Sequence[Trial]] = {}
    forms: tuple[StepForm, ...] = ("mixed", "b2b")
    for form in forms:
        trials = []
        for value in study.values(form):
            trials.append(study.trial(form, value))
            done()
        found[form] = trials
    return found


def _block(table: PlanTable, row: int) -> DrawnBatch:
    start = int(table.start[row])
    height, width = map(int, table.canvas[row])
    return DrawnBatch(Shape(height, width), table.sizes[start : start + int(table.count[row])])


def _evenly(count: int) -> list[int]:
    return sorted({round(at) for at in np.linspace(0, count - 1, min(count, _MOST_BLOCKS)).tolist()})


def _typical_shuffle(sizes: Sizes) -> DrawnBatch:
    """Of many random batches of these images the one of median overhead."""
    rng = np.random.default_rng(0)
    draws = [sizes[rng.permutation(len(sizes))[:SHUFFLED_BATCH]] for _ in range(_DRAWS)]
    blocks = [DrawnBatch(Shape(*map(int, draw.max(axis=0))), draw) for draw in draws]
    return blocks[_median_position(np.array([block.overhead for block in blocks]))]


def _median_position(values: FloatArray) -> int:
    return int(np.argsort(values, kind="stable")[(len(values) - 1) // 2])
