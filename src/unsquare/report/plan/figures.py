"""Figures of a plan: a step as it is computed, shapes with canvases, work by canvas, the price of choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from unsquare.plan.analysis.policies import PolicyFigures
from unsquare.report.kit import figures, units
from unsquare.report.kit.figures import BLUE, GREY, INK, NARROW_INCHES, ORANGE, RED, WIDE_INCHES, Drawing
from unsquare.report.kit.statistics import FloatArray
from unsquare.report.plan import packing
from unsquare.report.plan.facts import CanvasGroup, Example, Trial
from unsquare.report.plan.packing import Placed, Sheet

_IMAGE, _PADDING = "#9dbdd2", "#fbe3cc"
_TITLE_HEIGHT = 0.36
_NARROW_TITLE_HEIGHT = 0.78
_NARROW_LETTERS = 40
_LEGEND_HEIGHT = 0.34
_TIME, _SKEW = "predicted time of an epoch", "class skew of a step"


def example_sheet(example: Example, titles: tuple[str, str]) -> Drawing:
    """Canvases of a shuffled batch above those of planned micro-batches, all at one scale, padding hatched."""
    groups = [[example.shuffled], example.drawn]
    wide = packing.sheet_of(groups, _TITLE_HEIGHT, WIDE_INCHES)
    narrow = packing.sheet_of(groups, _NARROW_TITLE_HEIGHT, NARROW_INCHES)

    def paint(figure: Figure) -> None:
        is_narrow = figures.is_narrow(figure)
        sheet = narrow if is_narrow else wide
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, figure.get_figwidth())
        axes.set_ylim(figure.get_figheight(), 0)
        for top, title in zip(sheet.tops, titles):
            words = "\n".join(wrap(title, _NARROW_LETTERS)) if is_narrow else title
            axes.text(0.04, top + 0.04, words, fontsize=11, fontweight="bold", color=INK, va="top")
        for placed in sheet.placed:
            _draw_block(axes, placed, sheet)
        handles = [
            Patch(facecolor=_IMAGE, edgecolor=BLUE, label="image"),
            Patch(facecolor=_PADDING, edgecolor=ORANGE, hatch="////", label="padding"),
        ]
        axes.legend(handles=handles, loc="lower left", ncols=2, fontsize=10, borderaxespad=0.1)

    return figures.draw(paint, wide.height + _LEGEND_HEIGHT, narrow.height + _LEGEND_HEIGHT)


def work_by_canvas(rows: Sequence[CanvasGroup], overhead: float, fill: float) -> Drawing:
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
        for axes, (title, values, mean, color) in zip((top, bottom), panels):
            axes.bar(left, values, width, align="edge", color=color, edgecolor="white", linewidth=edge)
            axes.axhline(mean, color=INK, linewidth=1.1, linestyle=(0, (4, 3)))
            axes.set_title(f"{title} (mean {units.percent(mean)})")
            axes.grid(False, axis="x")
            _from_zero(axes, [*values, mean])
            if axes is bottom:
                axes.set_ylim(0, max(1.04, *values))
            _quantity_ticks(axes, title, units.percent)
        shown = _spread_out(left + width / 2, width, 0.2 if figures.is_narrow(figure) else 0.09)
        bottom.set_xticks([float(left[at] + width[at] / 2) for at in shown])
        bottom.set_xticklabels([units.pixels(rows[at].canvas_pixels) for at in shown])
        bottom.set_xlim(0, 1)
        bottom.set_xlabel("largest canvas (bar width: share of the work)")

    return figures.draw(paint, height=4.8, narrow_height=4.4)


def price_of_choices(trials: Mapping[str, Sequence[Trial]], own: str, own_trial: Trial) -> Drawing:
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
        if figures.is_narrow(figure):  # one column: the panels of the first form above those of the second
            parts = figure.subfigures(len(trials), 1, squeeze=False).flat
            columns = [part.subplots(len(measures), 1, sharex=True) for part in parts]
        else:
            columns = list(figure.subplots(len(measures), len(trials), squeeze=False, sharex="col").T)
        for column, (words, tried) in zip(columns, trials.items()):
            column[-1].set_xlim(np.log2(tried[0].value) - 0.4, np.log2(tried[-1].value) + 0.4)
            figures.ticks_by_doubling(column[-1], "x", _pixel_count, most=11)
            column[-1].set_xlabel(words)
            for axes, (title, measure, text) in zip(column, measures):
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

    return figures.draw(paint, 0.6 + 1.9 * len(measures), 2 * (0.5 + 1.5 * len(measures)))


def skew_of_steps(skew: FloatArray, chance: FloatArray) -> Drawing:
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
        axes.set_xlabel("class skew of a step")
        axes.set_ylabel("steps")
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        figures.legend_outside(figure, 1 if figures.is_narrow(figure) else 2)

    return figures.draw(paint, height=3.4, narrow_height=3.0)


def policies_side_by_side(rows: Sequence[PolicyFigures]) -> Drawing:
    """Overhead and predicted time of each way to batch, this plan first; those that would not fit in red."""
    colors = [BLUE if not at else RED if row.num_over_budget else GREY for at, row in enumerate(rows)]
    overhead, time_s = [row.padding_overhead for row in rows], [row.predicted_s for row in rows]
    times = [units.duration(value) for value in time_s]

    def paint(figure: Figure) -> None:
        if figures.is_narrow(figure):  # names above their bars, and times beside the overheads
            axes = figure.add_subplot()
            words = [f"{units.percent(value)}, {time}" for value, time in zip(overhead, times)]
            _draw_policies(axes, overhead, words, colors, height=0.4)
            axes.set_xlim(min(0.0, 1.1 * min(overhead)), 1.9 * max(*overhead, 1e-9))
            for at, row in enumerate(rows):
                axes.text(0, at - 0.26, row.name, fontsize=8, color=INK, va="bottom")
            axes.set_yticks([])
            axes.set_title("padding overhead, predicted time", pad=12)
        else:
            left, right = figure.subplots(1, 2, sharey=True)
            _draw_policies(left, overhead, list(map(units.percent, overhead)), colors, height=0.62)
            _draw_policies(right, time_s, times, colors, height=0.62)
            left.set_yticks(range(len(rows)), [row.name for row in rows])
            left.set_title("padding overhead")
            right.set_title(_TIME)
        handles = [Patch(color=BLUE, label="this plan"), Patch(color=GREY, label="fits the budget")]
        if any(row.num_over_budget for row in rows[1:]):
            handles.append(Patch(color=RED, label="would run out of memory"))
        figures.legend_outside(figure, 3, handles)

    return figures.draw(paint, 1.1 + 0.34 * len(rows), 1.5 + 0.4 * len(rows))


def _draw_policies(
    axes: Axes, values: Sequence[float], words: Sequence[str], colors: Sequence[str], height: float
) -> None:
    axes.barh(range(len(values)), values, color=colors, height=height)
    for at, (value, text) in enumerate(zip(values, words)):
        axes.text(max(value, 0), at, f" {text}", va="center", fontsize=9.5, color=INK)
    axes.set_xlim(min(0.0, 1.1 * min(values)), 1.32 * max(*values, 1e-9))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_xticks([])
    axes.grid(False)
    axes.tick_params(axis="y", length=0)
    axes.spines["bottom"].set_visible(False)


def _draw_block(axes: Axes, placed: Placed, sheet: Sheet) -> None:
    block, left = placed.block, placed.left
    height, width = (packing.side(length, sheet.scale) for length in block.canvas)
    shown = figures.thin(len(block.sizes), placed.num_cells)
    for at, row in enumerate(shown):
        corner = (left + at * (width + packing.CELL_GAP), placed.top)
        axes.add_patch(
            Rectangle(corner, width, height, facecolor=_PADDING, edgecolor=ORANGE, hatch="////", linewidth=0.7)
        )
        inner = [packing.side(int(length), sheet.scale) for length in block.sizes[row]]
        axes.add_patch(Rectangle(corner, inner[1], inner[0], facecolor=_IMAGE, edgecolor=BLUE, linewidth=0.7))
    num, rest = len(block.sizes), len(block.sizes) - len(shown)
    words = units.plural(num, "image") + (f" ({len(shown)} drawn)" if rest else "")
    detail = f"{block.canvas.height} x {block.canvas.width}, {units.percent(block.overhead)} padding"
    axes.text(left, placed.top - 0.06, f"{words}\n{detail}", fontsize=9, color=INK, va="bottom", linespacing=1.25)


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


def _spread_out(centers: FloatArray, width: FloatArray, least: float) -> list[int]:
    """Bars whose labels fit: the widest first, none closer to another than a part of the axis."""
    shown: list[int] = []
    for at in np.argsort(-width, kind="stable"):
        if all(abs(centers[at] - centers[other]) > least for other in shown):
            shown.append(int(at))
    return sorted(shown)


def _pixel_count(value: float) -> str:
    return f"{value:,.0f}"
