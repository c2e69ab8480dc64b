"""The figure of the learning study: accuracy on val over training time, a line for each arm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure


def draw(outcomes: list[dict[str, Any]], path: Path) -> None:
    """Write an SVG: each arm's mean over its seeds, and the range of the seeds as a band."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    for table, row in dict.fromkeys((each["table"], each["row"]) for each in outcomes):
        curves = [each["curve"] for each in outcomes if (each["table"], each["row"]) == (table, row)]
        seconds = np.mean([[point[0] for point in curve] for curve in curves], axis=0) / 60
        accuracy = np.array([[point[2] for point in curve] for curve in curves])
        dashed = "--" if "equal time" in table else "-"
        (line,) = axes.plot(seconds, accuracy.mean(axis=0), dashed, marker="o", markersize=3, label=_label(table, row))
        axes.fill_between(seconds, accuracy.min(axis=0), accuracy.max(axis=0), alpha=0.15, color=line.get_color())
    axes.set_xlabel("training time, minutes")
    axes.set_ylabel("accuracy on val")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, format="svg", metadata={"Date": None})


def _label(table: str, row: str) -> str:
    return f"{row} ({table.partition(', ')[2]})" if ", " in table else row
