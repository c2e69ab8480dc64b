"""The leading figures of a run's task, and how its best epoch was chosen."""

from __future__ import annotations

from dataclasses import replace

from unsquare.index.table import Task
from unsquare.report.kit import units
from unsquare.report.kit.content import Headline
from unsquare.report.kit.statistics import wilson_interval
from unsquare.runs.figures import CHOOSING
from unsquare.runs.rows import EvaluationRow
from unsquare.runs.selection import BestOfSeveral

CHOSEN_BY: dict[Task, str] = {
    task: f"{'lowest' if task == 'regression' else 'highest'} {figure}" for task, figure in CHOOSING.items()
}
"""What the best epoch has on the val split."""


def outcome_tiles(row: EvaluationRow, chosen: BestOfSeveral | None = None) -> list[Headline]:
    """The headlines of an evaluation; the leading figure stands beside that of the last epoch where that is another.

    Args:
        row: the evaluation.
        chosen: how its own images chose the weights; None where they did not.
    """
    images = units.plural(row.num_images, f"{row.split} image".strip())
    tiles_of = {"classification": _classes, "multilabel": _labels, "regression": _values}[row.task]
    first, *rest = tiles_of(row, images)
    if chosen is None:
        return [first, *rest]
    last = tiles_of(chosen.last, images)[0]
    remark = f"not chosen, unlike the best of {chosen.num_epochs} epochs"
    if chosen.last_size:
        remark = "its size of pictures was chosen on the same images"
    elif chosen.is_last:
        remark = "the same weights on pictures of its own size" if chosen.sizes else "which is the best one"
    return [
        replace(first, name=f"{first.name}, optimistic"),
        Headline(last.value, f"{last.name}, last epoch", remark),
        *rest,
    ]


def best_remark(row: EvaluationRow) -> str:
    """The figure that chose the best epoch, in words."""
    if row.task == "regression":
        return f"mean absolute error {units.digits(row.mae or 0.0)} on {row.split}"
    if row.task == "multilabel":
        return f"mean average precision {row.mean_average_precision or 0.0:.3f} on {row.split}"
    return f"{units.percent(row.mean_per_class_accuracy or 0.0)} per class on {row.split}"


def _classes(row: EvaluationRow, images: str) -> list[Headline]:
    accuracy = row.accuracy or 0.0
    low, high = wilson_interval(round(accuracy * row.num_images), row.num_images)
    remark = f"{units.percent_range(low, high)} with 95\u00a0% confidence, on {images}"
    mean = units.percent(row.mean_per_class_accuracy or 0.0)
    return [
        Headline(units.percent(accuracy), "accuracy", remark),
        Headline(mean, "mean per-class accuracy", "every class counts the same"),
    ]


def _labels(row: EvaluationRow, images: str) -> list[Headline]:
    tiles = [Headline(units.percent(row.accuracy or 0.0), "label accuracy", "of all decisions on one label")]
    if row.mean_average_precision is not None:
        macro, micro = (f"{figure or 0.0:.3f}" for figure in (row.f1_macro, row.f1_micro))
        mean = f"{row.mean_average_precision:.3f}"
        tiles = [
            Headline(mean, "mean average precision", f"every label counts the same, on {images}"),
            Headline(macro, "macro F1", f"micro F1 {micro}, at a probability of 50\u00a0%"),
            *tiles,
        ]
    return tiles


def _values(row: EvaluationRow, images: str) -> list[Headline]:
    relative = units.percent(row.relative_mae or 0.0)
    r2 = "-" if row.r2 is None else f"{row.r2:.3f}"
    error = units.digits(row.rmse or 0.0)
    return [
        Headline(
            units.digits(row.mae or 0.0), "mean absolute error", f"{relative} of a standard deviation, on {images}"
        ),
        Headline(r2, "R\u00b2", f"part of the variance explained; root mean squared error {error}"),
    ]
