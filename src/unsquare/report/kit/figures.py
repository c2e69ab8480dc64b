"""How every figure looks, and how it gets into the page: as an SVG inside an image's address.

Each is drawn twice: for the width of a page, and for that of a telephone, where it has fewer columns instead of smaller
letters. An image keeps a figure's ids and styles to itself, where SVG pasted into the page would share them with its
neighbors; points by the thousand are drawn as pixels inside the SVG, for the page would otherwise be slow.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MultipleLocator, NullLocator

BLUE, ORANGE, GREEN, RED, GREY, INK = "#27678f", "#d9792b", "#3d8f6d", "#b8403a", "#9aa3ab", "#2b333b"
PURPLE, GOLD = "#7b5aa6", "#b8931f"
LINE = "#dde2e6"
GIB = 2.0**30

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.edgecolor": "#b9c1c8",
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": "#5d6770",
    "ytick.color": "#5d6770",
    "xtick.labelcolor": "#46505a",
    "ytick.labelcolor": "#46505a",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "unsquare",
    "text.parse_math": False,
}

RASTER_DPI = 170
"""Resolution of the parts of a figure that are drawn as pixels."""


WIDE_INCHES, NARROW_INCHES = 9.0, 3.7


class Drawing(NamedTuple):
    """The addresses of a figure's images."""

    wide: str
    narrow: str
    """For screens of a telephone's width."""


def draw(paint: Callable[[Figure], None], height: float = 3.6, narrow_height: float | None = None) -> Drawing:
    """A figure by `paint`, which is called once for each width and may ask which it is (`is_narrow`).

    Args:
        paint: draws into a figure.
        height: inches at 100 pixels each, as are all sizes.
        narrow_height: height of the narrow image; None for the same.
    """
    return Drawing(_address(paint, WIDE_INCHES, height), _address(paint, NARROW_INCHES, narrow_height or height))


def _address(paint: Callable[[Figure], None], width: float, height: float) -> str:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", dpi=RASTER_DPI, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def is_narrow(figure: Figure) -> bool:
    """Whether the figure is the one for narrow screens."""
    return bool(figure.get_figwidth() < WIDE_INCHES)


def few(figure: Figure, most: int) -> int:
    """A number of columns or ticks, less than half of it in a narrow figure."""
    return max(1, (most + 1) // 3) if is_narrow(figure) else most


def legend_outside(figure: Figure, columns: int, handles: Sequence[Any] | None = None) -> None:
    """A legend below everything else, in two columns at most where the figure is narrow."""
    keywords = {"handles": handles} if handles else {}
    ncols = min(columns, 2) if is_narrow(figure) else columns
    figure.legend(loc="outside lower center", ncols=ncols, **keywords)


def format_axis(axes: Axes, which: str, text: Callable[[float], str]) -> None:
    """Tick labels along "x" or "y" by a function of the value."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def ticks_by_doubling(axes: Axes, which: str, text: Callable[[float], str], most: int = 9) -> None:
    """On an axis of binary logarithms: ticks at powers of two or closer, labeled by a function of the value."""
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    first, last = int(np.ceil(low)), int(np.floor(high))
    step = max(1, -(-(last - first + 1) // most))
    ticks = [float(at) for at in range(-(-first // step) * step, last + 1, step)]
    if step == 1 and len(ticks) < 4 and low > 1:  # then also at 3 times powers of two, which are whole
        between = float(np.log2(1.5))
        ticks += [at + between for at in range(first - 1, last + 1) if low <= at + between <= high]
    _set_ticks(axes, which, sorted(ticks), text)


def ticks_by_decade(axes: Axes, which: str, text: Callable[[float], str]) -> None:
    """On an axis of binary logarithms: ticks at 1 and 3 (or 1, 2 and 5) times powers of ten."""
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    leading = (1, 3) if high - low > 5 else (1, 2, 5)
    values = [digit * 10.0**power for power in range(13) for digit in leading]
    _set_ticks(axes, which, [at for at in np.log2(values).tolist() if low <= at <= high], text)


def ticks_by_clock(axes: Axes, longest_s: float, text: Callable[[float], str], most: int = 9, which: str = "x") -> None:
    """On an axis of seconds from 0: ticks at whole seconds, minutes or hours."""
    steps = (1, 2, 5, 10, 15, 30, *(60 * minutes for minutes in (1, 2, 5, 10, 15, 30)))
    steps += tuple(3600 * hours for hours in (1, 2, 3, 6, 12, 24, 48, 120, 240, 480))
    step = next((step for step in steps if longest_s / step < most), steps[-1])
    (axes.xaxis if which == "x" else axes.yaxis).set_major_locator(MultipleLocator(step))
    format_axis(axes, which, text)


def _set_ticks(axes: Axes, which: str, logs: list[float], text: Callable[[float], str]) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(logs))
    axis.set_minor_locator(NullLocator())
    format_axis(axes, which, lambda value: text(2.0**value))


def thin(count: int, most: int) -> np.ndarray:
    """Positions of at most `most` of `count` values, evenly spread, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def highest_per_bin(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most about `most` points of a curve that keep every peak: of each run of points the highest."""
    if len(x) <= most:
        return x, y
    starts = np.linspace(0, len(x), most + 1).astype(np.int64)[:-1]
    kept = [begin + int(np.argmax(y[begin:end])) for begin, end in zip(starts, [*starts[1:], len(x)])]
    return x[kept], y[kept]


def whole_numbers_by_doubling(axes: Axes, top: float) -> None:
    """A y axis from 1, doubling, labeled with whole numbers."""
    axes.set_yscale("log", base=2)
    axes.set_ylim(0.8, 1.25 * max(top, 2))
    ticks = 2.0 ** np.arange(0, np.floor(np.log2(max(top, 2))) + 1)
    axes.set_yticks(ticks[:: -(-len(ticks) // 6)])
    axes.minorticks_off()
    format_axis(axes, "y", lambda value: f"{value:,.0f}")
