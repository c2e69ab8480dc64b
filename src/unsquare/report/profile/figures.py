"""Figures of a profile: the sweep of the batch size, the kinds of memory, the layers that hold most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from unsquare.report.kit import figures, units
from unsquare.report.kit.figures import BLUE, GIB, GOLD, GREEN, GREY, INK, ORANGE, PURPLE, RED, Drawing
from unsquare.report.profile.facts import layer_bytes, predicted_bytes
from unsquare.runs.schemas import LayerRow, SweepSection

_KIND_COLORS = (GREY, GREEN, PURPLE, GOLD, BLUE, ORANGE, RED)
_MOST_LETTERS, _FEW_LETTERS = 44, 22


def sweep_of_batches(sweep: SweepSection, budget_bytes: float) -> Drawing:
    """Peak memory by the images of a batch, measured and predicted, with the budget."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        counts = [row.images for row in sweep.rows]
        marked = [one for one in (sweep.failed_images, sweep.predicted_images, sweep.largest_images) if one]
        last = max([*counts, *marked, 2])
        x = np.geomspace(1, 1.3 * last, 300)
        predicted = np.array([predicted_bytes(sweep, float(one)) for one in x]) / GIB
        axes.plot(np.log2(x), predicted, color=BLUE, linewidth=1.6, label="predicted")
        most = max(budget_bytes, sweep.limit_bytes or 0.0, *(row.peak_bytes for row in sweep.rows), 1.0) / GIB
        axes.axhline(budget_bytes / GIB, color=RED, linewidth=1.5, label="budget")
        if sweep.limit_bytes:
            limit = sweep.limit_bytes / GIB
            axes.axhline(limit, color=RED, linewidth=1.1, linestyle=(0, (4, 3)), label="limit of the process")
        measured = [row.peak_bytes / GIB for row in sweep.rows]
        style: dict[str, Any] = {"color": INK, "markersize": 7, "markeredgecolor": "white", "zorder": 4}
        axes.plot(np.log2(counts), measured, marker="o", linestyle="", label="measured", **style)
        axes.set_xlim(-0.25, np.log2(1.3 * last))
        axes.set_ylim(0, 1.22 * most)
        _draw_marks(axes, sweep, most)
        figures.ticks_by_doubling(axes, "x", lambda value: f"{value:,.0f}", figures.few(figure, 12))
        axes.set_xlabel(f"images of {sweep.canvas[0]} x {sweep.canvas[1]} in a micro-batch")
        axes.set_ylabel("peak memory, GiB")
        axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        figures.legend_outside(figure, 6)

    return figures.draw(paint, height=4.4, narrow_height=4.2)


def _draw_marks(axes: Axes, sweep: SweepSection, most: float) -> None:
    """The largest that fits, what was predicted to fit, and the smallest that failed: often close to each other."""
    held = {row.images: row.peak_bytes / GIB for row in sweep.rows}
    if sweep.largest_images in held:
        at = (float(np.log2(sweep.largest_images)), held[sweep.largest_images])
        style: dict[str, Any] = {"markerfacecolor": "none", "markeredgewidth": 2, "linestyle": ""}
        axes.plot(*zip(at), marker="o", markersize=14, color=GREEN, **style)
        _say(axes, f"{units.plural(sweep.largest_images, 'image')} fit", at, 0.36 * at[1], GREEN)
    if sweep.predicted_images > 0:
        x = float(np.log2(sweep.predicted_images))
        axes.axvline(x, color=BLUE, linewidth=1.1, linestyle=(0, (2, 3)))
        _say(axes, f"{sweep.predicted_images:,} predicted", (x, 0.06 * most), 0.06 * most, BLUE)
    if sweep.failed_images:
        at = (float(np.log2(sweep.failed_images)), min(predicted_bytes(sweep, sweep.failed_images) / GIB, 1.06 * most))
        style = {"markeredgecolor": "white", "linestyle": "", "zorder": 5}
        axes.plot(*zip(at), marker="X", markersize=11, color=RED, label="failed", **style)
        _say(axes, f"{sweep.failed_images:,} failed", at, 1.13 * most, RED)


def _say(axes: Axes, words: str, at: tuple[float, float], height: float, color: str) -> None:
    """Words at a height to one side of a point, the left one where it is far enough from the axis."""
    left, right = axes.get_xlim()
    to_left = at[0] - left > 0.3 * (right - left)
    place = (at[0] + (-0.03 if to_left else 0.03) * (right - left), height)
    line = {"arrowstyle": "-", "color": color, "linewidth": 1.0, "shrinkB": 6}
    text = axes.annotate(words, at, xytext=place, ha="right" if to_left else "left", va="center", arrowprops=line)
    text.set(fontsize=9.5, color=color, path_effects=[withStroke(linewidth=3, foreground="white")], zorder=6)


def kinds_in_one_bar(kinds: Sequence[tuple[str, float]], words: Mapping[str, str]) -> Drawing:
    """What memory is made of, as one bar.

    Args:
        kinds: name and bytes of each part.
        words: names as people read them.
    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        total, left = max(sum(held for _, held in kinds), 1.0), 0.0
        for number, (name, held) in enumerate(kinds):
            share = held / total
            label = f"{words.get(name, name)}: {units.size(held)} ({units.percent(share, 0)})"
            color = _KIND_COLORS[number % len(_KIND_COLORS)]
            axes.barh(0, share, left=left, color=color, height=0.6, label=label)
            left += share
        axes.set_xlim(0, 1)
        axes.set_axis_off()
        figures.legend_outside(figure, 1 if figures.is_narrow(figure) else 2)

    return figures.draw(paint, 1.0 + 0.22 * -(-len(kinds) // 2), 1.0 + 0.22 * len(kinds))


def layers_that_hold_most(layers: Sequence[LayerRow]) -> Drawing:
    """Bytes of each layer as a bar, its activations and its weights."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        rows = np.arange(len(layers))
        letters = _FEW_LETTERS if figures.is_narrow(figure) else _MOST_LETTERS
        activations = np.array([one.activations for one in layers]) / 2**20
        weights = np.array([one.weights for one in layers]) / 2**20
        axes.barh(rows, activations, color=BLUE, height=0.62, label="activations")
        axes.barh(rows, weights, left=activations, color=GREEN, height=0.62, label="weights")
        most = max(float((activations + weights).max()), 1e-6)
        for row, one in enumerate(layers):
            held = layer_bytes(one)
            axes.text(held / 2**20 + 0.008 * most, row, units.size(held), va="center", fontsize=9, color=INK)
        axes.set_yticks(rows, [shortened(one.name, letters) for one in layers], fontsize=9)
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.set_xlim(0, (1.6 if figures.is_narrow(figure) else 1.14) * most)
        axes.grid(False)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figures.legend_outside(figure, 2)

    return figures.draw(paint, height=0.7 + 0.25 * len(layers))


def shortened(name: str, most: int = _MOST_LETTERS) -> str:
    """The name without its middle, where it is long: layers differ in their ends."""
    keep = most // 2 - 1
    return name if len(name) <= most else f"{name[:keep]}…{name[-keep:]}"
