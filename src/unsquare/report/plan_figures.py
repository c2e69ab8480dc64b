"""Figures of a plan: a step as it is computed, shapes with canvases, work by canvas, the price of choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from unsquare.plan.analysis.policies import PolicyFigures
from unsquare.report import figures, plan_packing, units
from unsquare.report.figures import BLUE, GREY, INK, ORANGE, RED
from unsquare.report.plan_facts import Example, Floats, Row, Trial
from unsquare.report.plan_packing import Placed, Sheet
from unsquare.shapes import Sizes

_IMAGE, _PADDING = "#9dbdd2", "#fbe3cc"
_TITLE_HEIGHT = 0.36
_LEGEND_HEIGHT = 0.34
_CLOUD = LinearSegmentedColormap.from_list("cloud", ["#dfe7ed", "#9dbdd2", "#27678f"])
_WASTE = LinearSegmentedColormap.from_list("waste", ["#3d8f6d", "#d9a62b", "#d9792b", "#b8403a"])
_HEXAGON_IMAGES = 1500
"""From so many images on, the cloud is drawn as hexagons."""
_TIME, _SKEW = "predicted time of an epoch", "class skew of a step"
_CORNER = 0.22
"""Length of a canvas's corner along both sides, in doublings."""


class Canvases(NamedTuple):
    """Canvases to draw over the images, (n, 2), and each one's padding overhead, (n,)."""

    sizes: Sizes
    overhead: Floats


def example_sheet(example: Example, titles: tuple[str, str]) -> str:
    """Canvases of a shuffled batch above those of planned micro-batches, all at one scale, padding hatched."""
    sheet = plan_packing.sheet_of([[example.shuffled], example.drawn], _TITLE_HEIGHT)
    height = sheet.height + _LEGEND_HEIGHT

    def paint(figure: Figure) -> None:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, plan_packing.SHEET_WIDTH)
        axes.set_ylim(height, 0)
        for top, title in zip(sheet.tops, titles):
            axes.text(0.04, top + 0.14, title, fontsize=11, fontweight="bold", color=INK, va="center")
        for placed in sheet.placed:
            _draw_block(axes, placed, sheet)
        handles = [
            Patch(facecolor=_IMAGE, edgecolor=BLUE, label="image"),
            Patch(facecolor=_PADDING, edgecolor=ORANGE, hatch="////", label="padding: computed for nothing"),
        ]
        axes.legend(handles=handles, loc="lower left", ncols=2, fontsize=10, borderaxespad=0.1)

    return figures.draw(paint, plan_packing.SHEET_WIDTH, height)


def shapes_with_canvases(sizes: Sizes, canvases: Canvases, name: str) -> str:
    """Where images lie by width and height, and the upper right corner of each canvas, coloured by overhead.

    Args:
        sizes: planned shapes, (N, 2).
        canvases: what to draw over them.
        name: whose overhead the colours give.
    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        height, width = np.log2(sizes.astype(np.float64)).T
        if len(sizes) >= _HEXAGON_IMAGES:
            axes.hexbin(width, height, gridsize=70, bins="log", cmap=_CLOUD, linewidths=0.2, mincnt=1, rasterized=True)
        else:
            axes.scatter(width, height, s=np.clip(6000 / len(sizes), 5, 30), color=BLUE, alpha=0.45, linewidths=0)
        most = max(float(canvases.overhead.max()), 0.01)
        corners = _corners(canvases.sizes)
        lines = LineCollection(corners, cmap=_WASTE, norm=Normalize(0, most), linewidths=1.6, zorder=3)
        lines.set_array(canvases.overhead)
        axes.add_collection(lines)
        _frame(axes, np.concatenate([sizes, canvases.sizes]))
        _equal_pixels(axes)
        figures.ticks_by_doubling(axes, "x", _pixel_count)
        figures.ticks_by_doubling(axes, "y", _pixel_count)
        axes.set_xlabel("width in pixels")
        axes.set_ylabel("height in pixels")
        bar = figure.colorbar(lines, ax=axes, shrink=0.75, aspect=28, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label(f"padding overhead of a {name}")
        bar.ax.yaxis.set_major_formatter(lambda value, _: units.percent(value, 0 if most > 0.05 else 1))

    return figures.draw(paint, height=5.6)


def work_by_canvas(rows: Sequence[Row], overhead: float, fill: float) -> str:
    """Overhead and fill of each row as bars whose width is their part of the work, small canvases left."""

    def paint(figure: Figure) -> None:
        work = np.array([row.computed_pixels for row in rows], dtype=np.float64)
        width = work / work.sum()
        left = np.cumsum(width) - width
        panels = (
            ("padding overhead", [row.padding_overhead for row in rows], overhead, ORANGE),
            ("fill of the budget", [row.mean_fill for row in rows], fill, BLUE),
        )
        top, bottom = figure.subplots(2, 1, sharex=True)
        edge = 0.8 if len(rows) <= 80 else 0.2
        for axes, (title, values, mean, colour) in zip((top, bottom), panels):
            axes.bar(left, values, width, align="edge", color=colour, edgecolor="white", linewidth=edge)
            axes.axhline(mean, color=INK, linewidth=1.1, linestyle=(0, (4, 3)))
            axes.set_title(f"{title}; dashed: {units.percent(mean)} over the epoch")
            axes.grid(False, axis="x")
            _from_zero(axes, [*values, mean])
            if axes is bottom:
                axes.set_ylim(0, max(1.04, *values))
            _quantity_ticks(axes, title, units.percent)
        shown = _spread_out(left + width / 2, width)
        bottom.set_xticks([float(left[at] + width[at] / 2) for at in shown])
        bottom.set_xticklabels([units.pixels(rows[at].canvas_pixels) for at in shown])
        bottom.set_xlim(0, 1)
        bottom.set_xlabel("pixels of the largest canvas; a bar is as wide as its part of all computed pixels")

    return figures.draw(paint, height=4.8)


def price_of_choices(trials: Mapping[str, Sequence[Trial]], own: str, own_trial: Trial) -> str:
    """Overhead, time and class skew against the number that each step form is set by, the plan's own marked.

    Args:
        trials: by the words for what is varied.
        own: which of these words the plan goes by.
        own_trial: the plan's own figures.
    """
    measures: list[tuple[str, Callable[[Trial], float | None], Callable[[float], str]]] = [
        ("padding overhead", lambda one: one.padding_overhead, units.percent),
        ("micro-batches of an epoch", lambda one: one.num_micro_batches, _pixel_count),
        (_TIME, lambda one: one.predicted_s, units.duration),
    ]
    if own_trial.class_skew is not None:
        measures.append((_SKEW, lambda one: one.class_skew, lambda value: f"{value:.2f}"))

    def paint(figure: Figure) -> None:
        grid = figure.subplots(len(measures), len(trials), squeeze=False, sharex="col")
        for axes, (words, tried) in zip(grid[-1], trials.items()):
            axes.set_xlim(np.log2(tried[0].value) - 0.4, np.log2(tried[-1].value) + 0.4)
            figures.ticks_by_doubling(axes, "x", _pixel_count, most=11)
            axes.set_xlabel(words)
        for line, (title, measure, text) in zip(grid, measures):
            for axes, (words, tried) in zip(line, trials.items()):
                x, values = np.log2([one.value for one in tried]), [measure(one) for one in tried]
                axes.plot(x, values, color=BLUE, marker="o", markersize=3.5, linewidth=1.8)
                if title == _SKEW:
                    chance = [one.chance_class_skew for one in tried]
                    axes.plot(x, chance, color=GREY, linewidth=1.5, linestyle=(0, (4, 3)), label="by chance")
                    axes.legend(loc="lower left")
                axes.set_title(title, fontsize=10)
                if words == own:
                    _mark(axes, float(np.log2(own_trial.value)), measure(own_trial), text)
                    values.append(measure(own_trial))
                _from_zero(axes, values)
                _quantity_ticks(axes, title, text)

    return figures.draw(paint, height=0.6 + 1.9 * len(measures))


def skew_of_steps(skew: Floats, chance: Floats) -> str:
    """How many steps have which class skew, beside what they would have by chance."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        most = max(float(skew.max()), float(chance.max()), 0.02)
        least = min(float(skew.min()), float(chance.min()))
        num_bins = int(np.clip(2 * len(skew) ** 0.5, 8, 40))
        bins = np.linspace(0 if least < most / 3 else least - 0.05 * most, most * 1.02, num_bins + 1).tolist()
        axes.hist(chance, bins, color=GREY, alpha=0.55, label=f"by chance (mean {chance.mean():.3f})")
        axes.hist(skew, bins, color=BLUE, histtype="step", linewidth=2, label=f"this plan (mean {skew.mean():.3f})")
        axes.axvline(float(skew.mean()), color=BLUE, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.axvline(float(chance.mean()), color="#5d6770", linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_xlim(bins[0], bins[-1])
        axes.set_xlabel("class skew of a step: 0 is the dataset's own mix, 1 has nothing in common with it")
        axes.set_ylabel("steps")
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        figures.legend_below(axes, 2)

    return figures.draw(paint, height=3.4)


def policies_side_by_side(rows: Sequence[PolicyFigures]) -> str:
    """Overhead and predicted time of each way to batch, this plan first; those that would not fit in red."""

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        panels = (
            (left, "padding overhead", [row.padding_overhead for row in rows], lambda value: units.percent(value)),
            (right, "predicted time of an epoch", [row.predicted_s for row in rows], units.duration),
        )
        for axes, title, values, text in panels:
            colours = [BLUE if not at else RED if row.num_over_budget else GREY for at, row in enumerate(rows)]
            axes.barh(range(len(rows)), values, color=colours, height=0.62)
            for at, value in enumerate(values):
                axes.text(max(value, 0), at, " " + text(value), va="center", fontsize=9.5, color=INK)
            axes.set_title(title)
            axes.set_xlim(min(0.0, 1.1 * min(values)), 1.32 * max(max(values), 1e-9))
            axes.set_xticks([])
            axes.grid(False)
            axes.tick_params(axis="y", length=0)
            axes.spines["bottom"].set_visible(False)
        left.set_yticks(range(len(rows)), [row.name for row in rows])
        left.set_ylim(len(rows) - 0.4, -0.6)
        handles = [Patch(color=BLUE, label="this plan"), Patch(color=GREY, label="fits the budget")]
        if any(row.num_over_budget for row in rows[1:]):
            handles.append(Patch(color=RED, label="would run out of memory"))
        figure.legend(handles=handles, loc="outside lower right", ncols=3)

    return figures.draw(paint, height=1.1 + 0.34 * len(rows))


def _draw_block(axes: Axes, placed: Placed, sheet: Sheet) -> None:
    block, left = placed.block, placed.left
    height, width = (plan_packing.side(length, sheet.scale) for length in block.canvas)
    shown = figures.thin(len(block.sizes), placed.num_cells)
    for at, row in enumerate(shown):
        corner = (left + at * (width + plan_packing.CELL_GAP), placed.top)
        axes.add_patch(
            Rectangle(corner, width, height, facecolor=_PADDING, edgecolor=ORANGE, hatch="////", linewidth=0.7)
        )
        inner = [plan_packing.side(int(length), sheet.scale) for length in block.sizes[row]]
        axes.add_patch(Rectangle(corner, inner[1], inner[0], facecolor=_IMAGE, edgecolor=BLUE, linewidth=0.7))
    num, rest = len(block.sizes), len(block.sizes) - len(shown)
    words = units.plural(num, "image") + (f" ({len(shown)} drawn)" if rest else "")
    detail = f"{block.canvas.height} x {block.canvas.width}, {units.percent(block.overhead)} padding"
    axes.text(left, placed.top - 0.06, f"{words}\n{detail}", fontsize=9, color=INK, va="bottom", linespacing=1.25)


def _corners(sizes: Sizes) -> list[Floats]:
    y, x = np.log2(sizes.astype(np.float64)).T
    legs = ([x - _CORNER, y], [x, y], [x, y - _CORNER])
    return list(np.stack([np.stack(leg, -1) for leg in legs], 1))


def _frame(axes: Axes, sizes: Sizes) -> None:
    """Limits around all shapes, at least two doublings wide, doublings of both sides equally long."""
    logs = np.log2(sizes.astype(np.float64))
    low, high = logs.min(axis=0), logs.max(axis=0)
    extra = np.maximum(0.3, (2 - (high - low)) / 2)
    axes.set_ylim(low[0] - extra[0], high[0] + extra[0])
    axes.set_xlim(low[1] - extra[1], high[1] + extra[1])


def _equal_pixels(axes: Axes) -> None:
    """Thin lines along which shapes have the same number of pixels."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for power in range(3, 10):
        total = float(np.log2(10.0**power))
        ends = [(x, total - x) for x in (left, right)]
        axes.plot(*zip(*ends), color="#c3cad0", linewidth=0.9, linestyle=(0, (2, 3)), zorder=0.5)
        x = min(right, total - low)
        y = total - x
        if left + 0.5 < x and low <= y < high - 0.2:
            words = units.pixels(10**power)
            axes.text(x - 0.04, y + 0.04, words, fontsize=8.5, color="#5d6770", ha="right", va="bottom")
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)


def _mark(axes: Axes, x: float, y: float | None, text: Callable[[float], str]) -> None:
    if y is None:
        return
    axes.plot([x], [y], marker="o", markersize=9, color=ORANGE, markeredgecolor="white", linestyle="", zorder=5)
    left, right = axes.get_xlim()
    place = (x - left) / (right - left)
    side = "left" if place < 0.2 else "right" if place > 0.8 else "center"
    words = axes.annotate(f"this plan: {text(y)}", (x, y), xytext=(0, 9), textcoords="offset points", ha=side)
    words.set(fontsize=9.5, color="#a3561b", path_effects=[withStroke(linewidth=3, foreground="white")], zorder=6)


def _quantity_ticks(axes: Axes, title: str, text: Callable[[float], str]) -> None:
    """Few round ticks upwards."""
    most = axes.get_ylim()[1]
    if title == _TIME and most >= 10:
        figures.ticks_by_clock(axes, most, lambda value: units.duration(value).replace("\u00a00\u00a0s", ""), 5, "y")
        return
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=text is _pixel_count))
    if text is units.percent:
        decimals = 0 if most >= 0.04 else 1 if most >= 0.004 else 2
        figures.format_axis(axes, "y", lambda value: units.percent(value, decimals))
    else:
        figures.format_axis(axes, "y", text)


def _from_zero(axes: Axes, values: Sequence[float | None]) -> None:
    """From zero to a little more than the largest value."""
    most = max((value for value in values if value is not None), default=0.0)
    axes.set_ylim(0, 1.22 * most if most > 0 else 0.01)


def _spread_out(centres: Floats, width: Floats) -> list[int]:
    """Bars whose labels have room: the widest first, none closer than an eleventh of the axis to another."""
    shown: list[int] = []
    for at in np.argsort(-width, kind="stable"):
        if all(abs(centres[at] - centres[other]) > 0.09 for other in shown):
            shown.append(int(at))
    return sorted(shown)


def _pixel_count(value: float) -> str:
    return f"{value:,.0f}"
