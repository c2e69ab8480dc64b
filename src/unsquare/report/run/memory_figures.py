"""The figure of what micro-batches took, against what was predicted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from unsquare.report.kit import figures, units
from unsquare.report.kit.figures import BLUE, GIB, GOLD, GREEN, GREY, ORANGE, PURPLE, RED, Drawing
from unsquare.report.kit.statistics import FloatArray
from unsquare.report.run.memory_facts import MicroBatches, budget_is_far, highest_bytes
from unsquare.runs.memory_profile import MemoryProfile, StrategyProfile

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


def predicted_and_measured(batches: MicroBatches, profile: MemoryProfile | None, words: Mapping[str, str]) -> Drawing:
    """Peak of every micro-batch over its computed pixels, with the predicted lines, and the probes.

    Where the heap keeps freed memory, a peak says something only where it is higher than all before it; the others are
    not drawn.

    Args:
        batches: what was run.
        profile: the predictions; None where limits were pinned.
        words: names of strategies as people read them.
    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        measured = profile.measured if profile else ()
        names = list(dict.fromkeys([*(each.name for each in measured), *batches.strategies.tolist()]))
        probed = [probe for each in measured for probe in each.probes]
        x = np.concatenate([batches.pixels, [one.pixels for one in probed]])
        axes.xaxis.set_major_locator(MaxNLocator(figures.few(figure, 10)))
        if x.max() > _UNEVEN * np.median(x):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1,) if figures.is_narrow(figure) else (1, 3)))
        most = highest_bytes(profile, batches) if profile else float(batches.peak_bytes.max(initial=1.0))
        budget = profile.budget_bytes if profile and not budget_is_far(profile, batches) else 0.0
        if profile and not budget:
            axes.set_title(f"budget: {units.size(profile.budget_bytes)}", loc="right", color=RED, fontsize=10)
        drawn = batches.new_peaks if profile and profile.heap == "keep" else np.ones(len(batches.pixels), dtype=bool)
        for name in names:
            _draw_points(axes, batches, drawn & (batches.strategies == name), name, words.get(name, name))
        for number, each in enumerate(measured):
            assert profile is not None
            again = each.name in {other.name for other in measured[:number]}
            label = None if again else f"predicted: {words.get(each.name, each.name)}"
            _draw_line(axes, profile, each, (float(x.min()), float(x.max())), batches, label, first=number == 0)
        if profile and budget:
            axes.axhline(budget / GIB, color=RED, linewidth=1.5, label="budget")
            axes.axhline(
                profile.usable_bytes / GIB, color=RED, linewidth=1.1, linestyle=(0, (4, 3)), label="usable by plans"
            )
        if profile and profile.heap == "keep":  # the lines are bounds, which lie above all peaks
            most = min(2 * most, max(most, *(float(profile.bound_bytes(each, x.max(), 1.0)) for each in measured)))
        axes.set_ylim(0, 1.1 * max(most, budget) / GIB)
        axes.set_xlim(x.min() / 1.15 if axes.get_xscale() == "log" else 0, 1.06 * x.max())
        figures.format_axis(axes, "x", units.pixels)
        axes.set_xlabel("computed pixels of a micro-batch")
        axes.set_ylabel("peak memory, GiB")
        axes.minorticks_off()
        figures.legend_outside(figure, 1 if figures.is_narrow(figure) else 3)

    return figures.draw(paint, height=4.6, narrow_height=4.8)


def _draw_points(axes: Axes, batches: MicroBatches, drawn: npt.NDArray[np.bool_], name: str, label: str) -> None:
    there = np.flatnonzero(drawn)
    if not len(there):
        return
    color = _STRATEGY_COLORS.get(name, GREY)
    shown = there[np.union1d(figures.thin(len(there), _MOST_POINTS), [batches.peak_bytes[there].argmax()])]
    axes.scatter(
        batches.pixels[shown],
        batches.peak_bytes[shown] / GIB,
        s=float(np.clip(6000 / len(there), 4, 20)),
        color=color,
        alpha=0.55,
        linewidths=0,
        rasterized=len(shown) > _RASTER_ABOVE,
    )
    axes.plot([], [], marker="o", linestyle="", color=color, markersize=5, label=f"micro-batches: {label}")


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
    color = _STRATEGY_COLORS.get(measured.name, GREY)
    most_images = float(batches.images[batches.strategies == measured.name].max(initial=1.0))
    x: FloatArray = np.geomspace(*span, 300)
    low = profile.bound_bytes(measured, x, 1.0) / GIB
    high = profile.bound_bytes(measured, x, most_images) / GIB
    axes.plot(x, low, color=color, linewidth=1.4, label=label)
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(
        [one.pixels for one in measured.probes],
        [one.peak_bytes / GIB for one in measured.probes],
        linestyle="",
        marker="D",
        markersize=6,
        markerfacecolor="white",
        markeredgecolor=color,
        label="probes before training" if first else None,
    )
