"""Figures of two plans side by side, before in orange and after in blue."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unsquare.report.comparison.facts import falling_peaks, highest_predicted
from unsquare.report.kit import figures, units
from unsquare.report.kit.figures import BLUE, GIB, ORANGE, Drawing
from unsquare.runs.schemas import ComparedPlan

_COLORS = (ORANGE, BLUE)
_MOST_POINTS = 1500
_LONGEST_NAME = 40


def peaks_by_size(plans: tuple[ComparedPlan, ComparedPlan]) -> Drawing:
    """Predicted peak of every micro-batch from the largest down, with each plan's budget."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for plan, color in zip(plans, _COLORS):
            _draw_peaks(axes, plan, color)
        for number, (plan, color) in enumerate(zip(plans, _COLORS)):
            if plan.budget_bytes:
                words = f"budget of the {('first', 'second')[number]}, {units.size(plan.budget_bytes)}"
                # Dashes of the second stand in the gaps of the first, so that equal budgets show both.
                style: dict[str, Any] = {"color": color, "linewidth": 1.8}
                axes.axhline(plan.budget_bytes / GIB, linestyle=(6 * number, (6, 6)), **style)
                axes.plot([], [], linestyle="--", label=words, **style)
        most = max(max(plan.budget_bytes or 0.0, highest_predicted(plan) or 0.0) for plan in plans) / GIB
        longest = max(len(plan.predicted_bytes or ()) for plan in plans)
        axes.set_ylim(0, 1.1 * most)
        axes.set_xlim(0, longest)
        axes.xaxis.set_major_locator(MaxNLocator(figures.few(figure, 8), integer=True))
        figures.format_axis(axes, "x", lambda value: f"{value:,.0f}")
        axes.set_xlabel("micro-batches of an epoch, largest first")
        axes.set_ylabel("predicted peak, GiB")
        figures.legend_outside(figure, 1 if figures.is_narrow(figure) else 2)

    return figures.draw(paint, height=4.4, narrow_height=4.2)


def _draw_peaks(axes: Axes, plan: ComparedPlan, color: str) -> None:
    peaks = falling_peaks(plan) / GIB
    if not len(peaks):
        return
    shown = figures.thin(len(peaks), _MOST_POINTS)
    x, y = [*shown, len(peaks)], [*peaks[shown], peaks[-1]]
    axes.step(x, y, where="post", color=color, linewidth=2, label=_shortened(plan.name))
    axes.fill_between(x, y, step="post", color=color, alpha=0.1)


def fills_of_both(plans: tuple[ComparedPlan, ComparedPlan]) -> Drawing:
    """How full the micro-batches are, as parts of each plan's micro-batches."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        most = max(1.0, *(max(plan.fills, default=0.0) for plan in plans))
        bins = np.linspace(0, most, 26)
        for number, (plan, color) in enumerate(zip(plans, _COLORS)):
            if not plan.fills:
                continue
            share = np.histogram(plan.fills, bins)[0] / len(plan.fills)
            width = 0.42 * (bins[1] - bins[0])
            left = bins[:-1] + (0.07 + 0.44 * number) * (bins[1] - bins[0])
            axes.bar(left, share, width, align="edge", color=color, label=_shortened(plan.name))
        axes.set_xlim(0, most)
        figures.format_axis(axes, "x", lambda value: f"{100 * value:.0f} %")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        figures.format_axis(axes, "y", lambda value: f"{100 * value:.3g} %")
        axes.set_xlabel("fill of the budget")
        axes.set_ylabel("micro-batches")
        axes.grid(False, axis="x")
        figures.legend_outside(figure, 1 if figures.is_narrow(figure) else 2)

    return figures.draw(paint, height=3.4, narrow_height=3.2)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
