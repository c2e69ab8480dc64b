"""The sections on the run as it went: memory, its profile where there is one, learning, time."""

from __future__ import annotations

from unsquare.report import markup, run_figures, units
from unsquare.report.markup import Section
from unsquare.report.memory import memory_section
from unsquare.report.profile_page import profile_sections
from unsquare.report.record import Record
from unsquare.report.timing import data_wait_share, time_parts, total_seconds


def progress_sections(record: Record) -> list[Section]:
    """Memory, what `unsquare profile` found, the curves, and where the time went."""
    return [
        Section("memory", "Memory", memory_section(record)),
        *(profile_sections(record.profile) if record.profile is not None else ()),
        Section("training", "Training", _training(record)),
        Section("time", "Time", _time(record)),
    ]


def _training(record: Record) -> str:
    if not record.steps:
        return markup.note(record.lack_of("metrics.jsonl", "There are no steps")) + _lost(record)
    words = "Points are single steps."
    if not record.evals:
        words += " The run was not evaluated yet."
    figure = run_figures.training_curves(record.steps, record.evals)
    return (
        _lost(record)
        + markup.paragraph(words)
        + markup.image(figure, "Loss, accuracy, learning rate and batch size by step")
    )


def _lost(record: Record) -> str:
    return markup.note(f"Not all of metrics.jsonl is there: {record.lost}.") if record.lost else ""


def _time(record: Record) -> str:
    if not record.steps:
        return markup.note(record.lack_of("metrics.jsonl", "There are no steps"))
    share = data_wait_share(record.steps)
    words = (
        f"The run took {units.duration(total_seconds(record))}. Of the time of its steps, "
        f"{units.percent(share)} was spent waiting for images to be read and decoded."
    )
    if share > 0.1:
        words += " More workers, or faster storage, would shorten it."
    parts = [part for part in time_parts(record) if part[1] > 0]
    figure = markup.image(run_figures.time_shares(parts), "Shares of the time") if parts else ""
    return markup.paragraph(words) + figure
