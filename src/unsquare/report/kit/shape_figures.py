"""The figure of shapes that pages on runs and on plans share: images by width and height, with canvases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from unsquare.report.kit import figures, units
from unsquare.report.kit.figures import BLUE, GREEN, GREY, INK, ORANGE, Drawing
from unsquare.report.kit.statistics import FloatArray
from unsquare.shapes import Sizes

_CLOUD = LinearSegmentedColormap.from_list("cloud", ["#dfe7ed", "#9dbdd2", "#27678f"])
_WASTE = LinearSegmentedColormap.from_list("waste", ["#3d8f6d", "#d9a62b", "#d9792b", "#b8403a"])
_HEXAGON_IMAGES = 1500
"""From so many images on, the cloud is drawn as hexagons, where one color is enough."""
_MOST_POINTS = 20_000
_RASTER_ABOVE = 600
_CORNER, _SMALL_CORNER = 0.035, 0.014
"""Length of a canvas's corner along both sides, as a part of the axes; the small one is for many canvases."""
_MANY_CANVASES = 60


class Canvases(NamedTuple):
    """Canvases to draw over the images, (n, 2), and each one's padding overhead, (n,), where it is known."""

    sizes: Sizes
    overhead: FloatArray | None = None


def shapes_with_canvases(sizes: Mapping[str, Sizes], canvases: Canvases, name: str = "canvas") -> Drawing:
    """Where images lie by width and height, and the upper right corner of each canvas.

    An image fits on a canvas if it lies to the left of the corner and below.

    Args:
        sizes: shapes by the name of their split, (N, 2) each; of one split alone, many are drawn as hexagons.
        canvases: what to draw over them, colored by overhead where it is known.
        name: whose overhead the colors give.
    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        _draw_images(axes, sizes)
        _frame(axes, np.concatenate([*sizes.values(), canvases.sizes]))
        many = len(canvases.sizes) > _MANY_CANVASES
        lines = LineCollection(_corners(axes, canvases.sizes, _SMALL_CORNER if many else _CORNER), zorder=3)
        lines.set_linewidth(0.9 if many else 1.5)
        if canvases.overhead is None:
            lines.set_color(INK)
        axes.add_collection(lines)
        _equal_pixels(axes)
        figures.ticks_by_doubling(axes, "x", _count, figures.few(figure, 9))
        figures.ticks_by_doubling(axes, "y", _count)
        axes.set_xlabel("width in pixels")
        axes.set_ylabel("height in pixels")
        if canvases.overhead is not None:
            _color_by_overhead(figure, axes, lines, canvases.overhead, name)
        if len(sizes) > 1 or canvases.overhead is None:
            figures.legend_outside(figure, 5, _handles(sizes, canvases))

    return figures.draw(paint, height=5.6, narrow_height=4.2)


def _draw_images(axes: Axes, sizes: Mapping[str, Sizes]) -> None:
    total = sum(map(len, sizes.values()))
    for shapes, color in zip(sizes.values(), (BLUE, ORANGE, GREEN, GREY)):
        y, x = np.log2(shapes.astype(np.float64)).T
        if len(sizes) == 1 and total >= _HEXAGON_IMAGES:
            axes.hexbin(x, y, gridsize=70, bins="log", cmap=_CLOUD, linewidths=0.2, mincnt=1, rasterized=True)
            continue
        shown = figures.thin(len(shapes), max(1, _MOST_POINTS * len(shapes) // total))
        spot = float(np.clip(9000 / total, 5, 30))
        many = len(shown) > _RASTER_ABOVE
        axes.scatter(x[shown], y[shown], s=spot, color=color, alpha=0.5, linewidths=0, rasterized=many)


def _color_by_overhead(figure: Figure, axes: Axes, lines: LineCollection, overhead: FloatArray, name: str) -> None:
    most = max(float(overhead.max()), 0.01)
    lines.set(array=overhead, cmap=_WASTE, norm=Normalize(0, most), linewidth=1.6)
    if figures.is_narrow(figure):
        bar = figure.colorbar(lines, ax=axes, location="bottom", shrink=0.9, aspect=28)
    else:
        bar = figure.colorbar(lines, ax=axes, shrink=0.75, aspect=28, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(f"padding overhead of a {name}")
    bar.formatter = FuncFormatter(lambda value, _: units.percent(value, 0 if most > 0.05 else 1))
    bar.update_ticks()


def _handles(sizes: Mapping[str, Sizes], canvases: Canvases) -> list[Line2D]:
    handles = [
        Line2D([], [], marker="o", linestyle="", color=color, label=f"{split} ({len(shapes):,})")
        for (split, shapes), color in zip(sizes.items(), (BLUE, ORANGE, GREEN, GREY))
    ]
    if len(canvases.sizes):
        handles.append(Line2D([], [], color=INK, linewidth=1.2, label="canvas"))
    return handles


def _corners(axes: Axes, sizes: Sizes, length: float) -> list[FloatArray]:
    y, x = np.log2(sizes.astype(np.float64)).T
    across, down = (length * (high - low) for low, high in (axes.get_xlim(), axes.get_ylim()))
    legs = ([x - across, y], [x, y], [x, y - down])
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


def _count(value: float) -> str:
    return f"{value:,.0f}"
