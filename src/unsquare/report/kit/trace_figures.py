"""Figures of memory over time: the whole run or profile, and the moments around the highest peak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from unsquare.report.kit import figures, units
from unsquare.report.kit.figures import BLUE, GIB, GREEN, GREY, INK, ORANGE, RED, Drawing
from unsquare.report.kit.trace import CloseUp, MemoryTrace, Stretch
from unsquare.runs.rows import StepRow

PHASE_STYLES = {
    "data": ("waiting for images", GREY),
    "forward": ("forward", BLUE),
    "backward": ("backward", ORANGE),
    "update": ("update", GREEN),
}
_MOST_PEAKS = 400
"""Points of the memory curve; each is the highest of its time."""
_MOST_POINTS = 6000
_RASTER_ABOVE = 800
_FAR = 4.0
"""Over the whole run, a budget so many times the highest peak is written, not drawn."""
_CLOSE = 1.6
"""Around the peak, where small changes matter, a budget so many times it is not drawn."""
_PLOT_SHARE = 0.9
"""Width of the axes within the figure, about, to see what text fits."""


def memory_over_time(trace: MemoryTrace, budget_bytes: float | None, steps: Sequence[StepRow]) -> Drawing:
    """Memory in use with the budget above it; below, the images of each micro-batch and of each step."""

    def paint(figure: Figure) -> None:
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        time_s, used = figures.highest_per_bin(trace.time_s, trace.used_bytes, _MOST_PEAKS)
        top.fill_between(time_s, used / GIB, color=BLUE, alpha=0.15, linewidth=0)
        top.plot(time_s, used / GIB, color=BLUE, linewidth=1.2, label="in use")
        most = used.max()
        if budget_bytes and budget_bytes < _FAR * used.max():
            most = max(most, budget_bytes)
            top.axhline(budget_bytes / GIB, color=RED, linewidth=1.5, label=f"budget, {units.size(budget_bytes)}")
        elif budget_bytes:
            top.set_title(f"budget: {units.size(budget_bytes)}", loc="right", color=RED, fontsize=10)
        top.set_ylim(0, 1.15 * most / GIB)
        top.set_ylabel("memory, GiB")
        _draw_batch_sizes(below, trace, steps)
        below.set_xlabel("time since the start")
        figures.ticks_by_clock(below, float(trace.time_s.max()), _clock, figures.few(figure, 9))
        figures.legend_outside(figure, 4)

    return figures.draw(paint, height=5.0, narrow_height=4.2)


def _draw_batch_sizes(axes: Axes, trace: MemoryTrace, steps: Sequence[StepRow]) -> None:
    at_work = trace.images > 0
    time_s, images = trace.time_s[at_work], trace.images[at_work]
    if len(time_s):
        shown = figures.thin(len(time_s), _MOST_POINTS)
        time_s, images = time_s[shown], images[shown]
    many = len(time_s) + len(steps) > _RASTER_ABOVE
    style: dict[str, Any] = {"linestyle": "", "rasterized": many}
    axes.plot(time_s, images, marker=".", markersize=3.5, color=GREEN, label="images of a micro-batch", **style)
    if steps:
        rows = [steps[at] for at in figures.thin(len(steps), _MOST_POINTS)]
        at, count = [row.time_s for row in rows], [row.num_images for row in rows]
        axes.plot(at, count, marker="D", markersize=4, color=ORANGE, label="images of a step", **style)
    figures.whole_numbers_by_doubling(axes, max([*images, *(row.num_images for row in steps), 1]))
    axes.set_ylabel("images")


def around_the_peak(near: CloseUp, budget_bytes: float | None) -> Drawing:
    """Memory around its highest, on bands of what was done; below, the micro-batches with their images and canvas."""

    def paint(figure: Figure) -> None:
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.7 if figures.is_narrow(figure) else 2.3, 1))
        for one in near.phases:
            if one.phase in PHASE_STYLES:
                top.axvspan(one.start_s, one.end_s, color=PHASE_STYLES[one.phase][1], alpha=0.22, linewidth=0)
        used = near.used_bytes / GIB
        top.plot(near.time_s, used, color=INK, linewidth=1.3, marker="." if len(used) < 250 else "", markersize=3.5)
        top.plot([0], [used.max()], marker="o", markersize=7, color=RED, markeredgecolor="white", zorder=4)
        most = used.max()
        if budget_bytes and budget_bytes < _CLOSE * near.used_bytes.max():
            most = max(most, budget_bytes / GIB)
            top.axhline(budget_bytes / GIB, color=RED, linewidth=1.5)
        least = 0.0 if used.min() < 0.6 * most else used.min()
        span = max(most - least, 0.1 * most)
        top.set_ylim(max(0.0, least - 0.1 * span), most + 0.12 * span)
        top.set_ylabel("memory, GiB")
        start, end = float(near.time_s[0]), float(near.time_s[-1])
        top.set_xlim(start, end)
        top.grid(False, axis="x")
        inches = _PLOT_SHARE * figure.get_figwidth()
        for one in near.micro_batches:
            _draw_micro_batch(below, one, start, end, inches)
        below.set_ylim(0, 1)
        below.set_yticks([])
        below.grid(False)
        below.set_ylabel("micro-batches")
        below.xaxis.set_major_locator(MaxNLocator(figures.few(figure, 9), steps=[1, 2, 5, 10]))
        figures.format_axis(below, "x", lambda value: f"{value:+g}" if value else "0")
        below.set_xlabel("seconds from the highest peak")
        figures.legend_outside(figure, 6, _phase_handles(near, budget_bytes))

    return figures.draw(paint, height=5.0, narrow_height=4.4)


def _draw_micro_batch(axes: Axes, one: Stretch, first_s: float, last_s: float, inches: float) -> None:
    start, end = max(one.start_s, first_s), min(one.end_s, last_s)
    axes.add_patch(Rectangle((start, 0.04), end - start, 0.92, facecolor="#e4ecf1", edgecolor="white", linewidth=1.2))
    width_inches = (end - start) / (last_s - first_s) * inches
    height, width = one.canvas
    flat = (units.plural(one.images, "image"), f"{height} x {width}")
    place = ((start + end) / 2, 0.5)
    if width_inches > 0.075 * max(map(len, flat)):
        axes.text(*place, "\n".join(flat), ha="center", va="center", fontsize=8.5, color=INK)
    elif width_inches > 0.15:
        words = f"{one.images} of {height} x {width}"
        axes.text(*place, words, ha="center", va="center", fontsize=7.5, color=INK, rotation=90)


def _phase_handles(near: CloseUp, budget_bytes: float | None) -> list[Patch | Line2D]:
    there = {one.phase for one in near.phases}
    handles: list[Patch | Line2D] = [
        Patch(facecolor=color, alpha=0.4, label=words) for name, (words, color) in PHASE_STYLES.items() if name in there
    ]
    handles.append(Line2D([], [], marker="o", linestyle="", color=RED, label="highest"))
    if budget_bytes and budget_bytes < _CLOSE * near.used_bytes.max():
        handles.append(Line2D([], [], color=RED, label="budget"))
    return handles


def _clock(seconds: float) -> str:
    """A time as minutes:seconds, or hours:minutes:seconds from an hour on."""
    whole = round(seconds)
    if whole < 0:
        return ""
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
