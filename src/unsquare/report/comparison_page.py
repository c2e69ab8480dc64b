"""The page on two plans, before and after: padding, micro-batches, fill, memory and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unsquare.report import comparison_figures, markup, units
from unsquare.report.comparison_facts import Side, sides_of
from unsquare.report.ledger_words import ledger_rows, whole
from unsquare.report.markup import Section
from unsquare.report.shell import page_of, write_page

_ARROW = "\u00a0→ "

Sides = tuple[Side, Side]
Pair = tuple[float | None, float | None]
"""A figure before and after; None where it is not known."""


def write_comparison_page(comparison: Mapping[str, Any], out: Path) -> Path:
    """Write the page on two plans, whole or not at all, and return its path.

    Args:
        comparison: the plans, the one before first.
        out: the HTML file; its folder is made.

    Raises:
        RunError: the comparison is of another version or incomplete, or the file cannot be written.
    """
    sides = sides_of(comparison)
    before, after = sides
    title = f"{before.name} and {after.name}"
    lead = f"Two plans: {before.name} before the arrow, {after.name} after it."
    head = f'<h1>{markup.text(title)}</h1><p class="lead">{markup.text(lead)}</p>{markup.tiles(_headlines(sides))}'
    sections = [
        Section("peaks", "Memory of the micro-batches", _peaks(sides)),
        Section("fill", "Fill", _fill(sides)),
        Section("ledger", "All figures", _ledger(sides)),
    ]
    return write_page(out, page_of(title, head, sections, "Made by unsquare from two plans."))


def _headlines(sides: Sides) -> list[tuple[str, str, str]]:
    padding = _both(sides, lambda side: side.ledger.get("padding_overhead"))
    counts = _both(sides, lambda side: side.ledger.get("num_micro_batches"))
    fill = _both(sides, lambda side: side.median_fill)
    peak = _both(sides, lambda side: side.peak_bytes)
    seconds = _both(sides, lambda side: side.seconds)
    return [
        (_arrow(padding, units.percent), "padding overhead", _times(padding, "as much")),
        (_arrow(counts, whole), "micro-batches", _times(counts, "as many")),
        (_arrow(fill, lambda value: units.percent(value, 0)), "median fill", "of the budget"),
        (_arrow(peak, units.size), "highest foreseen peak", _measured_peaks(sides)),
        (_arrow(seconds, units.duration), "predicted time of an epoch", _speed(seconds)),
    ]


def _both(sides: Sides, figure: Callable[[Side], float | None]) -> Pair:
    return figure(sides[0]), figure(sides[1])


def _arrow(pair: Pair, form: Callable[[float], str]) -> str:
    return _ARROW.join("unknown" if value is None else form(value) for value in pair)


def _times(pair: Pair, words: str) -> str:
    before, after = pair
    if not before or after is None:
        return ""
    return f"{units.digits(after / before, 2)} times {words}"


def _speed(seconds: Pair) -> str:
    before, after = seconds
    if not before or not after:
        return ""
    if after <= before:
        return f"{units.digits(before / after)} times as fast"
    return f"{units.digits(after / before)} times as long"


def _measured_peaks(sides: Sides) -> str:
    peaks = _both(sides, lambda side: float(side.measured.peak_bytes.max()) if len(side.measured.peak_bytes) else None)
    return "" if peaks == (None, None) else f"measured: {_arrow(peaks, units.size)}"


def _peaks(sides: Sides) -> str:
    without = [side.name for side in sides if not len(side.predicted_bytes)]
    if len(without) == 2:
        return markup.note("Neither plan foresees bytes: their bounds were pinned, not measured.")
    words = (
        "What each micro-batch is foreseen to take at its peak, from the largest down; dashed, the budgets. Fewer "
        "micro-batches launch less often, and those close to the budget leave least of it unused."
    )
    missing = f" Of {without[0]} no bytes are known, because its bounds were pinned." if without else ""
    figure = comparison_figures.peaks_by_size(sides)
    return markup.paragraph(markup.text(words + missing)) + markup.image(
        figure, "Foreseen peaks of the micro-batches of both plans"
    )


def _fill(sides: Sides) -> str:
    if not any(len(side.fills) for side in sides):
        return markup.note("Neither plan has a micro-batch.")
    words = (
        "Fill is what a micro-batch computes over the most that its way of running holds; bars are parts of all "
        "micro-batches of a plan. The last ones of a step, or of a rare shape, are often small."
    )
    return markup.paragraph(words) + markup.image(
        comparison_figures.fills_of_both(sides), "Micro-batches of both plans by fill"
    )


def _ledger(sides: Sides) -> str:
    rows = ledger_rows(*(side.ledger for side in sides))
    if not rows:
        return markup.note("Neither plan has a ledger.")
    names = [side.name for side in sides]
    return f'<div class="named">{markup.table(("in an epoch", *names), rows, numeric=(1, 2))}</div>'
