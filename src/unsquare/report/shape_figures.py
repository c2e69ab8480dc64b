"""Figures of shapes: which there are, what padding costs, and how accuracy depends on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unsquare.report import figures, units
from unsquare.report.figures import BLUE, GREEN, GREY, INK, ORANGE
from unsquare.report.statistics import Group
from unsquare.shapes import Shape, Sizes

_MOST_POINTS = 20_000
_ROOF = 0.16
"""Reach of a canvas's roof to both sides, in doublings of the aspect ratio."""


def shape_scatter(sizes: Mapping[str, Sizes], canvases: Sequence[Shape]) -> str:
    """Every image as a point, aspect ratio to the right and pixels upwards, and every canvas as a roof.

    In doublings of both, the images that fit on a canvas are those below the two lines of slope 1 that
    fall from it to both sides; a roof is the upper end of these lines.

    Args:
        sizes: training shapes by the name of their split.
        canvases: the canvases to draw.
    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        colours = dict(zip(sizes, (BLUE, ORANGE, GREEN, GREY)))
        total = sum(map(len, sizes.values()))
        for split, shapes in sizes.items():
            shown = shapes[figures.thin(len(shapes), max(1, _MOST_POINTS * len(shapes) // total))]
            x, y = _doublings(shapes=shown)
            spot = float(np.clip(9000 / max(total, 1), 2, 22))
            axes.scatter(x, y, s=spot, color=colours[split], alpha=0.55, linewidths=0, rasterized=len(shown) > 600)
        _draw_roofs(axes, canvases)
        axes.margins(0.04)
        axes.autoscale_view()
        figures.ticks_by_doubling(axes, "x", units.aspect)
        figures.ticks_by_decade(axes, "y", units.pixels)
        axes.set_xlabel("width : height")
        axes.set_ylabel("pixels")
        handles = [
            Line2D([], [], marker="o", linestyle="", color=colours[split], label=f"{split} ({len(shapes):,})")
            for split, shapes in sizes.items()
        ]
        if canvases:
            handles.append(Line2D([], [], color=INK, linewidth=1.2, label="canvas"))
        figures.legend_below(axes, 5, handles)

    return figures.draw(paint, height=5.2)


def padding_bars(bars: Sequence[tuple[str, float]]) -> str:
    """Computed pixels of several ways to batch, as multiples of the real pixels.

    Args:
        bars: name and padding overhead of each, the run's own first.
    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row, (_, overhead) in enumerate(bars):
            axes.barh(row, 1, color=BLUE, height=0.56)
            axes.barh(row, overhead, left=1, color=ORANGE, height=0.56)
            text = f" {units.percent(overhead, 0 if overhead >= 1 else 1)} padding"
            axes.text(1 + overhead, row, text, va="center", color=INK, fontsize=10)
        axes.set_yticks(range(len(bars)), [name for name, _ in bars])
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1.22 * max(1 + overhead for _, overhead in bars))
        axes.set_xlabel("computed pixels, in multiples of the real pixels")

    return figures.draw(paint, height=0.9 + 0.42 * len(bars))


def accuracy_by_group(panels: Sequence[tuple[str, Sequence[Group]]], overall: float) -> str:
    """The accuracy of each group with its 95 % interval, one panel per way to group."""

    def paint(figure: Figure) -> None:
        for number, (title, groups) in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), number + 1)
            rows = np.arange(len(groups))
            means = np.array([group.accuracy for group in groups])
            low, high = np.array([group.interval for group in groups]).T
            axes.axvline(overall, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
            axes.errorbar(means, rows, xerr=[means - low, high - means], fmt="o", color=BLUE, markersize=6, linewidth=2)
            names = [f"{one.name}\n{one.bounds}\n{units.plural(one.num_images, 'image')}" for one in groups]
            axes.set_yticks(rows, names, fontsize=9)
            axes.set_ylim(len(groups) - 0.5, -0.5)
            axes.set_xlim(-0.02, 1.02)
            axes.grid(False, axis="y")
            axes.set_title(title)
            figures.format_axis(axes, "x", lambda value: f"{100 * value:.0f} %")
            axes.set_xlabel("accuracy")

    most = max(len(groups) for _, groups in panels)
    return figures.draw(paint, height=1.0 + 0.62 * most)


def _draw_roofs(axes: Axes, canvases: Sequence[Shape]) -> None:
    if not canvases:
        return
    x, y = _doublings(np.array(canvases, dtype=np.int64))
    reach = _ROOF if len(canvases) <= 100 else _ROOF / 2
    roofs = np.stack(
        [np.stack([x - reach, y - reach], -1), np.stack([x, y], -1), np.stack([x + reach, y - reach], -1)], 1
    )
    width = 1.3 if len(canvases) <= 100 else 0.8
    axes.add_collection(LineCollection(list(roofs), colors=INK, linewidths=width, zorder=3))


def _doublings(shapes: Sizes) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Binary logarithms of the aspect ratio and of the pixel count."""
    logs = np.log2(shapes.astype(np.float64))
    return logs[:, 1] - logs[:, 0], logs[:, 1] + logs[:, 0]
