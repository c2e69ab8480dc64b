"""The page on a learning-rate range test: the loss against the rate, and the rate that is suggested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from unsquare.report.kit import figures
from unsquare.report.kit.content import Chart, Headline, Page, Paragraph, Section
from unsquare.report.kit.figures import BLUE, GREY, ORANGE, Drawing
from unsquare.report.kit.page import write_page
from unsquare.training.rate_test import DIVERGED, RateTest

_ROOM = 0.25
"""How far above the first loss the figure reaches, as a part of the whole fall: where it diverges it is cut off."""


def rate_text(rate: float) -> str:
    """A learning rate as it may be given, such as 0.0012 or 3e-05."""
    return f"{rate:.2g}"


def rate_words(found: RateTest) -> str:
    """What a test suggests, in a sentence or two."""
    low = f"a tenth of the rate at which it is lowest is {rate_text(found.lowest_at / 10)}"
    if found.suggested is None:
        return f"The smoothed loss does not fall at any of the {len(found.rates)} rates, so none is suggested; {low}."
    return f"The smoothed loss falls fastest at a learning rate of {rate_text(found.suggested)}; {low}."


def write_rate_page(found: RateTest, out: Path) -> Path:
    """Write the page on a test, whole or not at all, and return its path.

    Args:
        found: the test.
        out: the HTML file; its folder is made.

    Raises:
        RunError: the file cannot be written.
    """
    number, ends = len(found.rates), [rate_text(found.rates[0]), rate_text(found.rates[-1])]
    words = (
        f"Each point is the loss of a step before its update, the line smooths them. Too low a rate "
        f"learns nothing, too high a one diverges: the test ends where losses are {DIVERGED:g} times their lowest."
    )
    chart = Chart(_loss_by_rate(found), "Loss against the learning rate, on a logarithmic axis")
    page = Page(
        title="Learning-rate range test",
        lead=[f"{number} steps at rates from {ends[0]} to {ends[1]}. {rate_words(found)}"],
        tiles=[
            Headline("none" if found.suggested is None else rate_text(found.suggested), "suggested rate"),
            Headline(rate_text(found.lowest_at), "rate of the lowest loss"),
        ],
        sections=[Section("loss", "Loss against the learning rate", [Paragraph(words), chart])],
        footer="Made by unsquare.",
    )
    return write_page(out, page)


def _loss_by_rate(found: RateTest) -> Drawing:
    losses, smoothed = np.array(found.losses), np.array(found.smoothed)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_xscale("log")
        axes.plot(found.rates, losses, ".", color=GREY, markersize=4, label="a step")
        axes.plot(found.rates, smoothed, color=BLUE, linewidth=2, label="smoothed")
        if found.suggested is not None:
            words = f"suggested: {rate_text(found.suggested)}"
            axes.axvline(found.suggested, color=ORANGE, linewidth=1.8, linestyle="--", label=words)
        fall = max(smoothed[0] - smoothed.min(), 0.1 * abs(float(smoothed[0])), 1e-9)
        axes.set_ylim(smoothed.min() - _ROOM * fall, smoothed[0] + 2 * _ROOM * fall)
        axes.xaxis.set_major_locator(LogLocator(numticks=figures.few(figure, 12)))
        axes.xaxis.set_minor_locator(NullLocator())
        figures.format_axis(axes, "x", rate_text)
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss")
        figures.legend_outside(figure, 3)

    return figures.draw(paint, height=4.2)
