"""The page on two plans, before and after: padding, micro-batches, fill, memory and time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from unsquare.report.comparison import figures
from unsquare.report.comparison.facts import highest_measured, highest_predicted, median_fill
from unsquare.report.kit import units
from unsquare.report.kit.content import Chart, Content, DataTable, Headline, Note, Page, Paragraph, Section
from unsquare.report.kit.page import write_page
from unsquare.report.kit.words import ledger_rows, whole
from unsquare.runs.schemas import ComparedPlan, PlanComparison

_ARROW = "\u00a0→ "

PlanPair = tuple[ComparedPlan, ComparedPlan]
FigurePair = tuple[float | None, float | None]
"""A figure before and after; None where it is not known."""


def write_comparison_page(comparison: PlanComparison, out: Path) -> Path:
    """Write the page on two plans, whole or not at all, and return its path.

    Args:
        comparison: the plans, the one before first.
        out: the HTML file; its folder is made.

    Raises:
        RunError: the file cannot be written.
    """
    plans = comparison.plans
    before, after = plans
    page = Page(
        title=f"{before.name} and {after.name}",
        lead=[f"Two plans: {before.name} before the arrow, {after.name} after it."],
        tiles=_headlines(plans),
        sections=[
            Section("peaks", "Memory of the micro-batches", _peaks(plans)),
            Section("fill", "Fill", _fill(plans)),
            Section("ledger", "All figures", _ledger(plans)),
        ],
        footer="Made by unsquare from two plans.",
    )
    return write_page(out, page)


def _headlines(plans: PlanPair) -> list[Headline]:
    padding = _both(plans, lambda plan: plan.ledger.get("padding_overhead"))
    counts = _both(plans, lambda plan: plan.ledger.get("num_micro_batches"))
    fill = _both(plans, median_fill)
    peak = _both(plans, highest_predicted)
    seconds = _both(plans, lambda plan: plan.seconds)
    return [
        Headline(_arrow(padding, units.percent), "padding overhead", _times(padding, "as much")),
        Headline(_arrow(counts, whole), "micro-batches", _times(counts, "as many")),
        Headline(_arrow(fill, lambda value: units.percent(value, 0)), "median fill", "of the budget"),
        Headline(_arrow(peak, units.size), "highest predicted peak", _measured_peaks(plans)),
        Headline(_arrow(seconds, units.duration), "predicted time of an epoch", _speed(seconds)),
    ]


def _both(plans: PlanPair, figure: Callable[[ComparedPlan], float | None]) -> FigurePair:
    return figure(plans[0]), figure(plans[1])


def _arrow(pair: FigurePair, form: Callable[[float], str]) -> str:
    return _ARROW.join("unknown" if value is None else form(value) for value in pair)


def _times(pair: FigurePair, words: str) -> str:
    before, after = pair
    if not before or after is None:
        return ""
    return f"{units.digits(after / before, 2)} times {words}"


def _speed(seconds: FigurePair) -> str:
    before, after = seconds
    if not before or not after:
        return ""
    if after <= before:
        return f"{units.digits(before / after)} times as fast"
    return f"{units.digits(after / before)} times as long"


def _measured_peaks(plans: PlanPair) -> str:
    peaks = _both(plans, highest_measured)
    return "" if peaks == (None, None) else f"measured: {_arrow(peaks, units.size)}"


def _peaks(plans: PlanPair) -> list[Content]:
    without = [plan.name for plan in plans if not plan.predicted_bytes]
    if len(without) == 2:
        return [Note("Neither plan predicts memory, because the settings pinned their limits.")]
    words = (
        "Predicted peak of each micro-batch, largest first, below the budgets (dashed). Fewer micro-batches mean fewer "
        "launches; peaks close to the budget leave little memory unused."
    )
    if without:
        words += f" No bytes are predicted for {without[0]}, because the settings pinned its limits."
    return [
        Paragraph(words),
        Chart(figures.peaks_by_size(plans), "Predicted peaks of the micro-batches of both plans"),
    ]


def _fill(plans: PlanPair) -> list[Content]:
    if not any(plan.fills for plan in plans):
        return [Note("Neither plan has a micro-batch.")]
    words = (
        "Fill is a micro-batch's computed pixels as a share of the most that its execution strategy allows. The last "
        "micro-batches of a step, and those of rare shapes, are often small."
    )
    return [Paragraph(words), Chart(figures.fills_of_both(plans), "Micro-batches of both plans by fill")]


def _ledger(plans: PlanPair) -> list[Content]:
    rows = ledger_rows(*(plan.ledger for plan in plans))
    if not rows:
        return [Note("Neither plan has a ledger.")]
    return [DataTable(("in an epoch", *(plan.name for plan in plans)), rows, numeric=(1, 2))]
