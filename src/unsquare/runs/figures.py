"""The figures of each task: their words, those that lead, and the one that chooses the best weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

from unsquare.index.table import Task

WORDS = {
    "mean_average_precision": "mean average precision",
    "f1_macro": "F1 macro",
    "f1_micro": "micro",
    "accuracy": "accuracy",
    "mean_per_class_accuracy": "mean per class",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R2",
}
"""The figures that are told, in this order."""
FIGURES = (*WORDS, "relative_mae")
"""All figures of an evaluation besides its loss, each of one task or two."""
LEADING: dict[Task, tuple[str, str]] = {
    "classification": ("accuracy", "mean_per_class_accuracy"),
    "multilabel": ("mean_average_precision", "f1_macro"),
    "regression": ("mae", "rmse"),
}
"""The two figures that sum up an evaluation; the first one leads."""
CHOOSING: dict[Task, str] = {
    "classification": "mean per-class accuracy",
    "multilabel": "mean average precision",
    "regression": "mean absolute error",
}
"""The figure that chooses the best weights, in words; `score_of` makes a score of it."""
DECIDING: dict[Task, str] = {
    "classification": "mean_per_class_accuracy",
    "multilabel": "mean_average_precision",
    "regression": "mae",
}
"""The name of that figure among `WORDS`."""
IN_UNITS = frozenset({"mae", "rmse"})
"""Figures in the unit of the values, whose size may be any; the others are parts of 1."""


def score_of(per_class: float | None, average_precision: float | None, error: float | None) -> float:
    """The figure that chooses the best weights, from 0 to 1, higher is better; None is a figure of another task.

    Args:
        per_class: mean per-class accuracy, of classes.
        average_precision: mean average precision, of labels.
        error: mean absolute error in standard deviations of the training images' values, of a regression.
    """
    if error is not None:
        return 1 / (1 + error)
    return per_class if per_class is not None else average_precision or 0.0


def describe(figures: Mapping[str, float | None], digits: int = 3) -> str:
    """Figures in words; those that are None or NaN are of another task, or not defined."""
    known = {name: value for name in WORDS if (value := figures.get(name)) is not None and not math.isnan(value)}
    return ", ".join(f"{WORDS[name]} {figure_text(name, value, digits)}" for name, value in known.items())


def figure_text(name: str, value: float, digits: int = 3) -> str:
    """A figure with so many digits."""
    return f"{value:.{digits + 1}g}" if name in IN_UNITS else f"{value:.{digits}f}"
