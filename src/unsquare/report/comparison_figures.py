"""Figures of two plans beside each other, before in orange and after in blue."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unsquare.report import figures, units
from unsquare.report.comparison_facts import Side
from unsquare.report.figures import BLUE, GIB, ORANGE

_COLOURS = (ORANGE, BLUE)
_MOST_POINTS = 1500
_LONGEST_NAME = 48


def peaks_by_size(sides: tuple[Side, Side]) -> str:
    """Foreseen peak of every micro-batch from the largest down, with each plan's budget."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for side, colour in zip(sides, _COLOURS):
            _draw_peaks(axes, side, colour)
        for number, (side, colour) in enumerate(zip(sides, _COLOURS)):
            if side.budget_bytes:
                words = f"budget of the {('first', 'second')[number]}, {units.size(side.budget_bytes)}"
                # Dashes of the second stand in the gaps of the first, so that equal budgets show both.
                style: dict[str, Any] = {"color": colour, "linewidth": 1.8}
                axes.axhline(side.budget_bytes / GIB, linestyle=(6 * number, (6, 6)), **style)
                axes.plot([], [], linestyle="--", label=words, **style)
        most = max(max(side.budget_bytes or 0.0, side.peak_bytes or 0.0) for side in sides) / GIB
        longest = max(len(side.predicted_bytes) for side in sides)
        axes.set_ylim(0, 1.1 * most)
        axes.set_xlim(0, longest)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        figures.format_axis(axes, "x", lambda value: f"{value:,.0f}")
        axes.set_xlabel("micro-batches of an epoch, from the largest down")
        axes.set_ylabel("foreseen peak, GiB")
        figure.legend(loc="outside lower center", ncols=2)

    return figures.draw(paint, height=4.4)


def _draw_peaks(axes: Axes, side: Side, colour: str) -> None:
    if not len(side.predicted_bytes):
        return
    peaks = side.predicted_bytes / GIB
    shown = figures.thin(len(peaks), _MOST_POINTS)
    x, y = [*shown, len(peaks)], [*peaks[shown], peaks[-1]]
    axes.step(x, y, where="post", color=colour, linewidth=2, label=_shortened(side.name))
    axes.fill_between(x, y, step="post", color=colour, alpha=0.1)


def fills_of_both(sides: tuple[Side, Side]) -> str:
    """How full the micro-batches are, as parts of each plan's micro-batches."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        most = max(1.0, *(float(side.fills.max(initial=0.0)) for side in sides))
        bins = np.linspace(0, most, 26)
        for number, (side, colour) in enumerate(zip(sides, _COLOURS)):
            if not len(side.fills):
                continue
            share = np.histogram(side.fills, bins)[0] / len(side.fills)
            width = 0.42 * (bins[1] - bins[0])
            left = bins[:-1] + (0.07 + 0.44 * number) * (bins[1] - bins[0])
            axes.bar(left, share, width, align="edge", color=colour, label=_shortened(side.name))
        axes.set_xlim(0, most)
        figures.format_axis(axes, "x", lambda value: f"{100 * value:.0f} %")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        figures.format_axis(axes, "y", lambda value: f"{100 * value:.3g} %")
        axes.set_xlabel("fill of the budget")
        axes.set_ylabel("micro-batches")
        axes.grid(False, axis="x")
        figure.legend(loc="outside lower center", ncols=2)

    return figures.draw(paint, height=3.4)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
