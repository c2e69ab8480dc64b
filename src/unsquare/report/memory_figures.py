"""Figures of memory: the moments around the highest peak, and what micro-batches took against what was foreseen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator

from unsquare.report import figures, units
from unsquare.report.figures import BLUE, GIB, GOLD, GREEN, GREY, INK, ORANGE, PURPLE, RED
from unsquare.report.memory_facts import CloseUp, MicroBatches, Stretch, budget_is_far, highest_bytes
from unsquare.report.record import Floats
from unsquare.runs.memory_profile import MemoryProfile, StrategyProfile

PHASES = {
    "data": ("waiting for images", GREY),
    "forward": ("forward", BLUE),
    "backward": ("backward", ORANGE),
    "update": ("update", GREEN),
}
_STRATEGY_COLORS = {
    "plain": BLUE,
    "pinned": BLUE,
    "bf16": PURPLE,
    "checkpoint": GREEN,
    "offload": ORANGE,
    "tile": GOLD,
}
_MOST_POINTS = 4000
_RASTER_ABOVE = 600
_UNEVEN = 40.0
"""Pixels of the largest micro-batch over those of the median from which on the axis is logarithmic."""
_CLOSE = 1.6
"""Around the peak, where small changes matter, a budget so many times it is not drawn."""
_PLOT_INCHES = 8.2
"""Width of the axes, about, to see what text has room."""


def around_the_peak(near: CloseUp, budget_bytes: float | None) -> str:
    """Memory around its highest, on bands of what was done; below, the micro-batches with their images and canvas."""

    def paint(figure: Figure) -> None:
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.3, 1))
        for one in near.phases:
            if one.phase in PHASES:
                top.axvspan(one.start_s, one.end_s, color=PHASES[one.phase][1], alpha=0.22, linewidth=0)
        used = near.used_bytes / GIB
        top.plot(near.time_s, used, color=INK, linewidth=1.3, marker="." if len(used) < 250 else "", markersize=3.5)
        top.plot([0], [used.max()], marker="o", markersize=7, color=RED, markeredgecolor="white", zorder=4)
        most = used.max()
        if budget_bytes and budget_bytes < _CLOSE * near.used_bytes.max():
            most = max(most, budget_bytes / GIB)
            top.axhline(budget_bytes / GIB, color=RED, linewidth=1.5)
        least = 0.0 if used.min() < 0.6 * most else used.min()
        room = max(most - least, 0.02 * most)
        top.set_ylim(max(0.0, least - 0.1 * room), most + 0.12 * room)
        top.set_ylabel("memory, GiB")
        start, end = float(near.time_s[0]), float(near.time_s[-1])
        top.set_xlim(start, end)
        top.grid(False, axis="x")
        for one in near.micro_batches:
            _draw_micro_batch(below, one, start, end)
        below.set_ylim(0, 1)
        below.set_yticks([])
        below.grid(False)
        below.set_ylabel("micro-batches")
        below.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))
        figures.format_axis(below, "x", lambda value: f"{value:+g}" if value else "0")
        below.set_xlabel("seconds from the highest peak")
        figure.legend(handles=_phase_handles(near, budget_bytes), loc="outside lower center", ncols=6)

    return figures.draw(paint, height=5.0)


def _draw_micro_batch(axes: Axes, one: Stretch, first_s: float, last_s: float) -> None:
    start, end = max(one.start_s, first_s), min(one.end_s, last_s)
    axes.add_patch(Rectangle((start, 0.04), end - start, 0.92, facecolor="#e4ecf1", edgecolor="white", linewidth=1.2))
    room = (end - start) / (last_s - first_s) * _PLOT_INCHES
    height, width = one.canvas
    flat = (units.plural(one.images, "image"), f"{height} x {width}")
    place = ((start + end) / 2, 0.5)
    if room > 0.075 * max(map(len, flat)):
        axes.text(*place, "\n".join(flat), ha="center", va="center", fontsize=8.5, color=INK)
    elif room > 0.15:
        words = f"{one.images} of {height} x {width}"
        axes.text(*place, words, ha="center", va="center", fontsize=7.5, color=INK, rotation=90)


def _phase_handles(near: CloseUp, budget_bytes: float | None) -> list[Patch | Line2D]:
    there = {one.phase for one in near.phases}
    handles: list[Patch | Line2D] = [
        Patch(facecolor=colour, alpha=0.4, label=words) for name, (words, colour) in PHASES.items() if name in there
    ]
    handles.append(Line2D([], [], marker="o", linestyle="", color=RED, label="highest"))
    if budget_bytes and budget_bytes < _CLOSE * near.used_bytes.max():
        handles.append(Line2D([], [], color=RED, label="budget"))
    return handles


def predicted_and_measured(batches: MicroBatches, profile: MemoryProfile | None, words: Mapping[str, str]) -> str:
    """Peak of every micro-batch over its computed pixels, with the predicted lines, and the probes.

    Args:
        batches: what was run.
        profile: the lines; None where limits were pinned.
        words: names of strategies as people read them.
    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        measured = profile.measured if profile else ()
        names = list(dict.fromkeys([*(each.name for each in measured), *batches.strategies.tolist()]))
        probed = [probe for each in measured for probe in each.probes]
        x = np.concatenate([batches.pixels, [one.pixels for one in probed]])
        if x.max() > _UNEVEN * np.median(x):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        most = highest_bytes(profile, batches) if profile else float(batches.peak_bytes.max(initial=1.0))
        budget = profile.budget_bytes if profile and not budget_is_far(profile, batches) else 0.0
        for name in names:
            _draw_points(axes, batches, name, words.get(name, name))
        for number, each in enumerate(measured):
            assert profile is not None
            again = each.name in {other.name for other in measured[:number]}
            label = None if again else f"predicted: {words.get(each.name, each.name)}"
            _draw_line(axes, profile, each, (float(x.min()), float(x.max())), batches, label, first=number == 0)
        if profile and budget:
            axes.axhline(budget / GIB, color=RED, linewidth=1.5, label="budget")
            axes.axhline(
                profile.usable_bytes / GIB, color=RED, linewidth=1.1, linestyle=(0, (4, 3)), label="what plans use"
            )
        axes.set_ylim(0, 1.1 * max(most, budget) / GIB)
        axes.set_xlim(x.min() / 1.15 if axes.get_xscale() == "log" else 0, 1.06 * x.max())
        figures.format_axis(axes, "x", units.pixels)
        axes.set_xlabel("computed pixels of a micro-batch")
        axes.set_ylabel("peak memory, GiB")
        axes.minorticks_off()
        figure.legend(loc="outside lower center", ncols=3)

    return figures.draw(paint, height=4.6)


def _draw_points(axes: Axes, batches: MicroBatches, name: str, label: str) -> None:
    there = np.flatnonzero(batches.strategies == name)
    if not len(there):
        return
    colour = _STRATEGY_COLORS.get(name, GREY)
    shown = there[np.union1d(figures.thin(len(there), _MOST_POINTS), [batches.peak_bytes[there].argmax()])]
    axes.scatter(
        batches.pixels[shown],
        batches.peak_bytes[shown] / GIB,
        s=float(np.clip(6000 / len(batches.pixels), 4, 20)),
        color=colour,
        alpha=0.55,
        linewidths=0,
        rasterized=len(shown) > _RASTER_ABOVE,
    )
    axes.plot([], [], marker="o", linestyle="", color=colour, markersize=5, label=f"micro-batches: {label}")


def _draw_line(
    axes: Axes,
    profile: MemoryProfile,
    measured: StrategyProfile,
    span: tuple[float, float],
    batches: MicroBatches,
    label: str | None,
    *,
    first: bool,
) -> None:
    """The line of one image, a band up to that of the most images of the run, and the probes."""
    colour = _STRATEGY_COLORS.get(measured.name, GREY)
    most_images = float(batches.images[batches.strategies == measured.name].max(initial=1.0))
    x: Floats = np.geomspace(*span, 300)
    low = profile.bound_bytes(measured, x, 1.0) / GIB
    axes.plot(x, low, color=colour, linewidth=1.4, label=label)
    axes.fill_between(
        x, low, profile.bound_bytes(measured, x, most_images) / GIB, color=colour, alpha=0.15, linewidth=0
    )
    axes.plot(
        [one.pixels for one in measured.probes],
        [one.peak_bytes / GIB for one in measured.probes],
        linestyle="",
        marker="D",
        markersize=6,
        markerfacecolor="white",
        markeredgecolor=colour,
        label="probes before training" if first else None,
    )
