"""Figures of a run: the course of training, accuracy by shape, padding, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unsquare.index.table import Task
from unsquare.report.kit import figures, units
from unsquare.report.kit.figures import BLUE, GOLD, GREEN, GREY, INK, ORANGE, RED, Drawing
from unsquare.report.kit.statistics import FloatArray, smooth
from unsquare.report.run.facts import AccuracyGroup, LabelFacts
from unsquare.runs.rows import EvaluationRow, StepRow

_MOST_POINTS = 1500
_RASTER_ABOVE = 800
COURSES: dict[Task, tuple[str, str]] = {
    "classification": ("Accuracy", "accuracy"),
    "multilabel": ("Mean average precision", "mean_average_precision"),
    "regression": ("Mean absolute error", "mae"),
}
"""Title and column of the figure beside the loss in the course of training."""
_TIME_COLORS = (GOLD, BLUE, RED, GREEN, GREY)


def training_curves(
    steps: Sequence[StepRow], evals: Sequence[EvaluationRow], best: EvaluationRow | None, task: Task = "classification"
) -> Drawing:
    """Loss, the task's leading figure, learning rate and batch size by epoch, the best evaluation and sizes marked."""
    title, name = COURSES[task]

    def paint(figure: Figure) -> None:
        is_narrow = figures.is_narrow(figure)
        shape = (4, 1) if is_narrow else (2, 2)
        panels = figure.subplots(*shape, sharex=True, height_ratios=(3, 3, 2, 2) if is_narrow else (3, 2))
        loss, accuracy, rate, sizes = panels.flat
        at = _column(steps, "epoch")
        _draw_curve(loss, at, _column(steps, "loss"), evals, "loss")
        loss.set_title("Loss")
        _draw_curve(accuracy, at, _column(steps, name), evals, name)
        accuracy.set_title(title)
        if task != "regression":
            accuracy.set_ylim(0, 1.02)
        if task == "classification":
            figures.format_axis(accuracy, "y", lambda value: f"{100 * value:.0f} %")
        if best is not None:
            for axes in (loss, accuracy):
                axes.axvline(best.epoch, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            loss.plot([], [], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="best epoch")
        mark_sizes(loss, at, evals)
        mark_sizes(accuracy, at, evals, at_top=task == "regression")
        shown = figures.thin(len(steps), _MOST_POINTS)
        rate.plot(at[shown], _column(steps, "learning_rate")[shown], color=BLUE, linewidth=1.6)
        rate.set_title("Learning rate")
        rate.set_ylim(bottom=0)
        figures.format_axis(rate, "y", lambda value: f"{value:.3g}")
        _draw_step_sizes(sizes, at, steps)
        for axes in panels[-1:] if is_narrow else panels[-1]:
            axes.set_xlabel("epoch")
            axes.set_xlim(at[0] - 0.02 * np.ptp(at) - 0.02, at[-1] + 0.02 * np.ptp(at) + 0.02)
            axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
            figures.format_axis(axes, "x", lambda value: f"{value:,g}")
        handles = [*loss.get_legend_handles_labels()[0], *sizes.get_legend_handles_labels()[0]]
        figures.legend_outside(figure, 6, handles)

    return figures.draw(paint, height=5.6, narrow_height=7.4)


def _draw_curve(axes: Axes, at: FloatArray, values: FloatArray, evals: Sequence[EvaluationRow], name: str) -> None:
    many = len(at) > _RASTER_ABOVE
    shown = figures.thin(len(at), 4 * _MOST_POINTS)
    spot = 8 if len(at) < 300 else 3
    style: dict[str, Any] = {"color": GREY, "alpha": 0.5, "linewidths": 0, "rasterized": many}
    axes.scatter(at[shown], values[shown], s=spot, label="training steps", **style)
    line = figures.thin(len(at), _MOST_POINTS)
    smoothed = smooth(values, max(3, len(values) // 25))
    axes.plot(at[line], smoothed[line], color=BLUE, linewidth=1.8, label="training, smoothed")
    for split, color in zip(sorted({row.split for row in evals}, reverse=True), (ORANGE, GREEN, RED)):
        rows = [row for row in evals if row.split == split]
        shape = "o-" if len(rows) < 40 else "-"
        axes.plot(_column(rows, "epoch"), _column(rows, name), shape, color=color, markersize=4, label=split)
    axes.set_ylim(bottom=0)


def mark_sizes(axes: Axes, at: FloatArray, evals: Sequence[EvaluationRow], *, at_top: bool = True) -> None:
    """A line where pictures got another size, with the size from there on, away from the curve; nothing where they kept
    it."""
    rows = [row for row in evals if row.split == "val"]
    changes = [(before.epoch, row) for before, row in pairwise(rows) if before.max_pixels != row.max_pixels]
    for epoch, row in [(float(at[0]), rows[0]), *changes] if changes else []:
        text = "full size" if row.max_pixels is None else units.pixels(row.max_pixels)
        if row is not rows[0]:
            axes.axvline(epoch, color=GREY, linewidth=1, linestyle=":", zorder=1)
        axes.annotate(
            text,
            (epoch, int(at_top)),
            (3, -2 if at_top else 2),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            verticalalignment="top" if at_top else "bottom",
            fontsize="x-small",
            color=INK,
        )


def _draw_step_sizes(axes: Axes, at: FloatArray, steps: Sequence[StepRow]) -> None:
    images, parts = _column(steps, "num_images"), _column(steps, "num_micro_batches")
    shown = figures.thin(len(at), 4 * _MOST_POINTS)
    many = len(at) > _RASTER_ABOVE
    style: dict[str, Any] = {"linestyle": "", "marker": ".", "rasterized": many}
    axes.plot(at[shown], images[shown], color=GOLD, markersize=7, label="images", **style)  # seen around the others
    axes.plot(at[shown], parts[shown], color=RED, markersize=4, label="micro-batches", **style)
    axes.set_title("Images, micro-batches a step")
    figures.whole_numbers_by_doubling(axes, max(images.max(), parts.max()))


def time_shares(parts: Sequence[tuple[str, float]]) -> Drawing:
    """Where the time went, as one bar.

    Args:
        parts: name and seconds of each part.
    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        total, left = sum(seconds for _, seconds in parts), 0.0
        for number, (name, seconds) in enumerate(parts):
            share = seconds / total
            label = f"{name}: {units.duration(seconds)} ({units.percent(share)})"
            axes.barh(0, share, left=left, color=_TIME_COLORS[number % len(_TIME_COLORS)], height=0.6, label=label)
            left += share
        axes.set_xlim(0, 1)
        axes.set_axis_off()
        figures.legend_outside(figure, 1 if figures.is_narrow(figure) else 2)

    return figures.draw(paint, 0.6 + 0.25 * -(-len(parts) // 2), 0.6 + 0.25 * len(parts))


def padding_bars(bars: Sequence[tuple[str, float]]) -> Drawing:
    """Computed pixels of several ways to batch, as multiples of the real pixels.

    Args:
        bars: name and padding overhead of each, the run's own first.
    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row, (_, overhead) in enumerate(bars):
            axes.barh(row, 1, color=BLUE, height=0.56)
            axes.barh(row, overhead, left=1, color=ORANGE, height=0.56)
            text = f" +{units.percent(overhead, 0 if overhead >= 1 else 1)}"
            axes.text(1 + overhead, row, text, va="center", color=INK, fontsize=10)
        axes.set_yticks(range(len(bars)), [name for name, _ in bars])
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        widest = max(1 + overhead for _, overhead in bars)
        axes.set_xlim(0, (1.7 if figures.is_narrow(figure) else 1.22) * widest)
        axes.set_xlabel("computed pixels / real pixels")

    return figures.draw(paint, height=0.9 + 0.42 * len(bars))


def accuracy_by_group(panels: Sequence[tuple[str, Sequence[AccuracyGroup]]], overall: float) -> Drawing:
    """The accuracy of each group with its 95 % interval, one panel per way to group."""

    def paint(figure: Figure) -> None:
        shape = (len(panels), 1) if figures.is_narrow(figure) else (1, len(panels))
        for axes, (title, groups) in zip(figure.subplots(*shape, squeeze=False).flat, panels):
            _draw_groups(axes, groups, overall)
            axes.set_title(title)

    most = max(len(groups) for _, groups in panels)
    return figures.draw(paint, 1.0 + 0.62 * most, sum(0.9 + 0.62 * len(groups) for _, groups in panels))


def _draw_groups(axes: Axes, groups: Sequence[AccuracyGroup], overall: float) -> None:
    rows = np.arange(len(groups))
    means = np.array([group.accuracy for group in groups])
    low, high = np.array([group.interval for group in groups]).T
    axes.axvline(overall, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    axes.errorbar(means, rows, xerr=[means - low, high - means], fmt="o", color=BLUE, markersize=6, linewidth=2)
    names = [f"{one.name}\n{one.bounds}\n{units.plural(one.num_images, 'image')}" for one in groups]
    axes.set_yticks(rows, names, fontsize=9)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(False, axis="y")
    figures.format_axis(axes, "x", lambda value: f"{100 * value:.0f} %")
    axes.set_xlabel("accuracy (dashed: all images)")


def precision_by_label(labels: Sequence[LabelFacts]) -> Drawing:
    """The average precision of each label, and that of guessing: the part of the images that have it."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        rows = np.arange(len(labels))
        found = np.array([one.average_precision for one in labels])
        guessed = np.array([one.num_images / one.num_judged for one in labels])
        axes.hlines(rows, guessed, found, color=GREY, linewidth=1.5)
        axes.plot(guessed, rows, "|", color=INK, markersize=11, markeredgewidth=1.6, label="guessing")
        axes.plot(found, rows, "o", color=BLUE, markersize=7, label="average precision")
        axes.set_yticks(rows, [_short(one.name, figure) for one in labels])
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(False, axis="y")
        figures.legend_outside(figure, 2)

    height = 1.0 + 0.3 * len(labels)
    return figures.draw(paint, height, height)


def _short(name: str, figure: Figure) -> str:
    """A name that leaves room for the drawing."""
    most = 16 if figures.is_narrow(figure) else 40
    return name if len(name) <= most else f"{name[: most - 1]}\u2026"


def predicted_against_true(truth: FloatArray, predicted: FloatArray, name: str) -> Drawing:
    """Predicted values over true ones, with the line on which they are equal, and how errors are distributed."""

    def paint(figure: Figure) -> None:
        is_narrow = figures.is_narrow(figure)
        shape = (2, 1) if is_narrow else (1, 2)
        left, right = figure.subplots(*shape, height_ratios=(5, 3) if is_narrow else (1,)).flat
        ends = [min(truth.min(), predicted.min()), max(truth.max(), predicted.max())]
        many = len(truth) > _RASTER_ABOVE
        left.plot(ends, ends, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="equal")
        spot = 14 if len(truth) < 300 else 6
        left.scatter(truth, predicted, s=spot, color=BLUE, alpha=0.5, linewidths=0, rasterized=many)
        left.set_title("Predicted against true")
        left.set_xlabel(f"true {_short(name, figure)}")
        left.set_ylabel("predicted")
        right.hist(predicted - truth, bins=min(40, max(8, len(truth) // 8)), color=BLUE)
        right.axvline(0, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        right.set_title("Errors")
        right.set_xlabel("predicted - true")
        right.set_ylabel("images")
        right.yaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (left, right):
            axes.xaxis.set_major_locator(MaxNLocator(5 if is_narrow else 6))

    return figures.draw(paint, height=3.9, narrow_height=6.2)


def _column(rows: Sequence[StepRow] | Sequence[EvaluationRow], name: str) -> FloatArray:
    """One column of the rows; a missing value is not drawn."""
    values = [getattr(row, name, None) for row in rows]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
