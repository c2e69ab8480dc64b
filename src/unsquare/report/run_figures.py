"""Figures of the run as it went: memory over time, and what each step did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unsquare.report import figures, units
from unsquare.report.figures import BLUE, GIB, GREEN, GREY, ORANGE, RED
from unsquare.report.record import MemoryTrace, Row
from unsquare.report.statistics import smooth

_MOST_POINTS = 1500
_MOST_PEAKS = 400
"""Points of the memory curve; each is the highest of its time."""

_RASTER_ABOVE = 800


def memory_over_time(trace: MemoryTrace, budget_bytes: float | None, steps: Sequence[Row]) -> str:
    """Memory in use with the budget above it; below, the images of each micro-batch and of each step."""

    def paint(figure: Figure) -> None:
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        time_s, used = figures.highest_per_bin(trace.time_s, trace.used_bytes, _MOST_PEAKS)
        top.fill_between(time_s, used / GIB, color=BLUE, alpha=0.15, linewidth=0)
        top.plot(time_s, used / GIB, color=BLUE, linewidth=1.2, label="in use")
        if budget_bytes:
            top.axhline(budget_bytes / GIB, color=RED, linewidth=1.5, label=f"budget, {units.size(budget_bytes)}")
        top.set_ylim(0, 1.15 * max(used.max(), budget_bytes or 0) / GIB)
        top.set_ylabel("memory, GiB")
        low = used.max() < 0.3 * (budget_bytes or 0)
        top.legend(loc="center right" if low else "lower right", ncols=2)
        _draw_batch_sizes(below, trace, steps)
        below.set_xlabel("time since the start")
        figures.ticks_by_clock(below, float(trace.time_s.max()), _clock)

    return figures.draw(paint, height=4.8)


def _draw_batch_sizes(axes: Axes, trace: MemoryTrace, steps: Sequence[Row]) -> None:
    at_work = trace.images > 0
    time_s, images = trace.time_s[at_work], trace.images[at_work]
    if len(time_s):
        shown = figures.thin(len(time_s), 4 * _MOST_POINTS)
        time_s, images = time_s[shown], images[shown]
    many = len(time_s) + len(steps) > _RASTER_ABOVE
    style: dict[str, Any] = {"linestyle": "", "rasterized": many}
    axes.plot(time_s, images, marker=".", markersize=3.5, color=GREEN, label="per micro-batch", **style)
    if steps:
        shown = figures.thin(len(steps), 4 * _MOST_POINTS)
        at, count = _column(steps, "time_s")[shown], _column(steps, "num_images")[shown]
        axes.plot(at, count, marker="D", markersize=4, color=ORANGE, label="per step", **style)
    top = max([*images, *(row["num_images"] for row in steps), 1])
    _whole_numbers_by_doubling(axes, top)
    axes.set_ylabel("images")
    axes.legend(loc="upper right", ncols=2, handletextpad=0.1)


def training_curves(steps: Sequence[Row], evals: Sequence[Row]) -> str:
    """Loss, accuracy, learning rate and batch size against the step."""

    def paint(figure: Figure) -> None:
        grid = figure.subplots(2, 2, sharex=True)
        at = _column(steps, "step")
        _draw_curve(grid[0, 0], at, _column(steps, "loss"), evals, "loss", "Loss")
        _draw_curve(grid[0, 1], at, _column(steps, "accuracy"), evals, "accuracy", "Accuracy")
        grid[0, 1].set_ylim(0, 1.22)
        grid[0, 1].set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        figures.format_axis(grid[0, 1], "y", lambda value: f"{100 * value:.0f} %")
        shown = figures.thin(len(steps), _MOST_POINTS)
        grid[1, 0].plot(at[shown], _column(steps, "learning_rate")[shown], color=BLUE, linewidth=1.6)
        grid[1, 0].set_title("Learning rate")
        grid[1, 0].set_ylim(bottom=0)
        figures.format_axis(grid[1, 0], "y", lambda value: f"{value:.3g}")
        _draw_step_sizes(grid[1, 1], at, steps)
        for axes in grid[1]:
            axes.set_xlabel("step")
            axes.set_xlim(at[0] - 0.02 * np.ptp(at) - 0.5, at[-1] + 0.02 * np.ptp(at) + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
            figures.format_axis(axes, "x", lambda value: f"{value:,.0f}")

    return figures.draw(paint, height=5.6)


def _draw_curve(
    axes: Axes,
    at: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
    evals: Sequence[Row],
    name: str,
    title: str,
) -> None:
    many = len(at) > _RASTER_ABOVE
    shown = figures.thin(len(at), 4 * _MOST_POINTS)
    spot = 8 if len(at) < 300 else 3
    axes.scatter(at[shown], values[shown], s=spot, color=GREY, alpha=0.5, linewidths=0, rasterized=many)
    line = figures.thin(len(at), _MOST_POINTS)
    smoothed = smooth(values, max(3, len(values) // 25))
    axes.plot(at[line], smoothed[line], color=BLUE, linewidth=1.8, label="training, smoothed")
    for split, colour in zip(sorted({row["split"] for row in evals}, reverse=True), (ORANGE, GREEN, RED)):
        rows = [row for row in evals if row["split"] == split]
        shape = "o-" if len(rows) < 40 else "-"
        axes.plot(_column(rows, "step"), _column(rows, name), shape, color=colour, markersize=4, label=split)
    axes.set_ylim(0, 1.22 * axes.get_ylim()[1])  # the legend stands in the room above
    axes.set_title(title)
    axes.legend(loc="upper right", ncols=2)


def _draw_step_sizes(axes: Axes, at: npt.NDArray[np.float64], steps: Sequence[Row]) -> None:
    images, parts = _column(steps, "num_images"), _column(steps, "num_micro_batches")
    shown = figures.thin(len(at), 4 * _MOST_POINTS)
    many = len(at) > _RASTER_ABOVE
    style: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 3, "rasterized": many}
    axes.plot(at[shown], images[shown], color=ORANGE, label="images", **style)
    axes.plot(at[shown], parts[shown], color=GREEN, label="micro-batches", **style)
    axes.set_title("Per step: images and micro-batches")
    _whole_numbers_by_doubling(axes, max(images.max(), parts.max()))
    axes.legend(loc="upper right", ncols=2, handletextpad=0.1)


def time_shares(parts: Sequence[tuple[str, float]]) -> str:
    """Where the time went, as one bar.

    Args:
        parts: name and seconds of each part.
    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        total, left = sum(seconds for _, seconds in parts), 0.0
        for (name, seconds), colour in zip(parts, (BLUE, RED, GREEN, GREY)):
            share = seconds / total
            label = f"{name}: {units.duration(seconds)} ({units.percent(share)})"
            axes.barh(0, share, left=left, color=colour, height=0.6, label=label)
            left += share
        axes.set_xlim(0, 1)
        axes.set_axis_off()
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, fontsize=10)

    return figures.draw(paint, height=1.25)


def _whole_numbers_by_doubling(axes: Axes, top: float) -> None:
    """A y axis from 1, doubling, labelled with whole numbers."""
    axes.set_yscale("log", base=2)
    axes.set_ylim(0.8, 2 ** (1.28 * np.log2(max(top, 2)) + 0.3))  # the legend stands in the room above
    ticks = 2.0 ** np.arange(0, np.floor(np.log2(max(top, 2))) + 1)
    axes.set_yticks(ticks[:: -(-len(ticks) // 6)])
    axes.minorticks_off()
    figures.format_axis(axes, "y", lambda value: f"{value:,.0f}")


def _column(rows: Sequence[Row], name: str) -> npt.NDArray[np.float64]:
    """One column of the rows; a missing value is not drawn."""
    return np.array([np.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64)


def _clock(seconds: float) -> str:
    """A time as minutes:seconds, or hours:minutes:seconds from an hour on."""
    whole = round(seconds)
    if whole < 0:
        return ""
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
