"""What the page on a run shows beside the files themselves: where the time went, and accuracy by class and shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unsquare.report.kit.statistics import wilson_interval
from unsquare.report.kit.units import aspect, pixels
from unsquare.report.run.judged import JudgedLabels
from unsquare.report.run.record import Record
from unsquare.runs.per_class import average_precision
from unsquare.runs.rows import StepRow
from unsquare.shapes import Sizes

LEAST_JUDGED_IMAGES = 100
"""Fewer judged images tell nothing about shapes: even all of them together leave a 95 % interval of about 10 points to
either side, at an accuracy of a half."""
LEAST_GROUP_IMAGES = 20
"""In a smaller group the interval is more than 20 points to either side."""

_ASPECT_BOUNDS = (0.0, 0.5, 0.8, 1.25, 2.0, np.inf)
_ASPECT_NAMES = ("very tall", "tall", "near square", "wide", "very wide")


class AccuracyGroup(NamedTuple):
    """The accuracy of a part of the images."""

    name: str
    bounds: str
    num_images: int
    num_correct: int

    @property
    def accuracy(self) -> float:
        """Part that was classified correctly."""
        return self.num_correct / self.num_images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy."""
        return wilson_interval(self.num_correct, self.num_images)


def size_groups(sizes: Sizes, correct: npt.NDArray[np.bool_]) -> list[AccuracyGroup]:
    """Accuracy by quartile of the pixel count, smallest first; quartiles that coincide are one."""
    count = sizes.prod(axis=1)
    bounds = np.unique(np.quantile(count, [0, 0.25, 0.5, 0.75, 1]))
    part = np.clip(np.searchsorted(bounds, count, side="right") - 1, 0, max(len(bounds) - 2, 0))
    names = ("smallest quarter", "second quarter", "third quarter", "largest quarter")
    groups = []
    for number in range(max(len(bounds) - 1, 1)):
        inside = part == number
        name = names[number] if len(bounds) == 5 else f"group {number + 1}"
        ends = [pixels(end) for end in (count[inside].min(), count[inside].max())] if inside.any() else []
        text = " to ".join(dict.fromkeys(ends))
        groups.append(AccuracyGroup(name, text, int(inside.sum()), int(correct[inside].sum())))
    return [group for group in groups if group.num_images]


def aspect_groups(sizes: Sizes, correct: npt.NDArray[np.bool_]) -> list[AccuracyGroup]:
    """Accuracy by aspect ratio, tallest first; groups without images are left out."""
    ratio = sizes[:, 1] / sizes[:, 0]
    groups = []
    for name, low, high in zip(_ASPECT_NAMES, _ASPECT_BOUNDS, _ASPECT_BOUNDS[1:]):
        inside = (ratio >= low) & (ratio < high)
        if low == 0:
            text = f"below {aspect(high, 3)}"
        elif np.isinf(high):
            text = f"from {aspect(low, 3)}"
        else:
            text = f"{aspect(low, 3)} to {aspect(high, 3)}"
        groups.append(AccuracyGroup(name, text, int(inside.sum()), int(correct[inside].sum())))
    return [group for group in groups if group.num_images]


def confusion(labels: list[str], predicted: list[str], classes: list[str]) -> npt.NDArray[np.int64]:
    """Counts of (label, predicted), (C, C)."""
    position = {name: number for number, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, ([position[name] for name in labels], [position[name] for name in predicted]), 1)
    return counts


class LabelFacts(NamedTuple):
    """How well one of several labels is found."""

    name: str
    num_judged: int
    """Images that were judged."""
    num_images: int
    """Those that have the label."""
    num_predicted: int
    """Those that are predicted to have it."""
    num_right: int
    """Those of both kinds."""
    average_precision: float
    """0 where no image has it."""

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.num_right / max(self.num_images + self.num_predicted, 1)


def facts_of_labels(judged: JudgedLabels) -> list[LabelFacts]:
    """The facts of each label, in the order of their names in the index."""
    both = judged.truth & judged.predicted
    return [
        LabelFacts(
            name=name,
            num_judged=len(judged.keys),
            num_images=int(judged.truth[:, at].sum()),
            num_predicted=int(judged.predicted[:, at].sum()),
            num_right=int(both[:, at].sum()),
            average_precision=average_precision(judged.truth[:, at], judged.probability[:, at]),
        )
        for at, name in enumerate(judged.labels)
    ]


def total_seconds(record: Record) -> float:
    """Seconds that the run took, from the call on: its start, measuring and evaluations included."""
    clock = max((*(row.time_s for row in record.steps), *(row.time_s for row in record.evals)), default=0.0)
    final = record.final.seconds if record.final else 0.0
    return record.start_s + max(clock + final, step_seconds(record.steps) + evaluation_seconds(record))


def evaluation_seconds(record: Record) -> float:
    """Seconds of all evaluations."""
    rows = [*record.evals, record.final] if record.final else record.evals
    return sum(row.seconds for row in rows)


def data_wait_share(steps: Sequence[StepRow]) -> float:
    """Part of the steps' time spent waiting for decoded images."""
    spent = step_seconds(steps)
    return min(1.0, data_wait_seconds(steps) / spent) if spent else 0.0


def step_seconds(steps: Sequence[StepRow]) -> float:
    """Seconds of all steps, waiting included."""
    return sum(row.step_s for row in steps)


def data_wait_seconds(steps: Sequence[StepRow]) -> float:
    """Seconds of all steps spent waiting for decoded images."""
    return sum(row.data_wait_s for row in steps)


def pixels_per_second(steps: Sequence[StepRow]) -> float:
    """Real pixels trained on in a second of the steps' time; 0 where unknown."""
    spent = step_seconds(steps)
    return sum(row.real_pixels for row in steps) / spent if spent else 0.0


def time_parts(record: Record) -> list[tuple[str, float]]:
    """Seconds of starting, computing, waiting for data, evaluating and everything else: together the whole run."""
    waiting = data_wait_seconds(record.steps)
    computing = max(0.0, step_seconds(record.steps) - waiting)
    evaluating = evaluation_seconds(record)
    rest = max(0.0, total_seconds(record) - record.start_s - computing - waiting - evaluating)
    return [
        ("startup and memory profile", record.start_s),
        ("computing", computing),
        ("waiting for images", waiting),
        ("evaluating", evaluating),
        ("checkpoints and other", rest),
    ]
