"""The page on a run: what was reached first, then how; every section in one self-contained HTML file."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from unsquare.index.table import ShapeIndex
from unsquare.index.text import shown
from unsquare.report.kit import units
from unsquare.report.kit.content import (
    Chart,
    Content,
    DataTable,
    Headline,
    Note,
    Page,
    Paragraph,
    Section,
    settings_tables,
)
from unsquare.report.kit.page import write_page
from unsquare.report.profile.page import profile_sections
from unsquare.report.run import figures
from unsquare.report.run.data import data_sections, problem_sections
from unsquare.report.run.facts import data_wait_share, pixels_per_second, time_parts, total_seconds
from unsquare.report.run.headlines import CHOSEN_BY, best_remark, outcome_tiles
from unsquare.report.run.memory import memory_content
from unsquare.report.run.outcome import outcome_sections
from unsquare.report.run.record import Record, read_record
from unsquare.runs.figures import LEADING, WORDS
from unsquare.settings import checks_arguments

FILE_NAME = "report.html"
_SLOW_DATA = 0.1
"""Share of the steps' time spent waiting for images, above which the page says what would help."""


@checks_arguments
def write_report(run: Path | str) -> Path:
    """Write a run's report, `report.html`, from the files in its folder.

    A run that stopped early, or was not evaluated yet, has a page too: what is missing is named there. So is a file
    that cannot be read; a warning tells of it, too.

    Args:
        run: the run folder.

    Returns:
        The path of the page.

    Raises:
        RunError: the folder is missing, is not a run, or cannot be written to.

    Example:
        >>> page = unsquare.write_report("runs/photos")
        >>> print(page)
        runs/photos/report.html
    """
    path, damage = report_of(Path(run))
    for words in damage:
        warnings.warn(words, stacklevel=3)  # whoever calls, behind the check of arguments
    return path


def report_of(run: Path) -> tuple[Path, list[str]]:
    """As `write_report`; returns the page's path, and a sentence for each file that cannot be read."""
    record = read_record(run)
    return write_page(run / FILE_NAME, page_of(record)), record.damage()


def page_of(record: Record) -> Page:
    """The whole page."""
    return Page(
        title=record.name,
        lead=[_describe(record)],
        notes=record.damage(),
        tiles=_headlines(record),
        sections=[
            Section("training", "Training", _training(record)),
            *outcome_sections(record),
            *data_sections(record),
            Section("memory", "Memory", memory_content(record)),
            *(profile_sections(record.profile) if record.profile is not None else ()),
            Section("machine", "Machine and time", _machine(record)),
            *problem_sections(record),
            Section("settings", "Settings", _settings(record)),
        ],
        footer="Made by unsquare from the files of the run folder. Intervals are 95 % Wilson intervals.",
    )


def _describe(record: Record) -> str:
    """What was trained, in one sentence."""
    backbone = record.setting("model", "backbone") or "A network"
    words = [f"{backbone} trained"]
    if record.steps:
        words.append(f"for {units.plural(len(record.steps), 'step')}")
        epochs = record.steps[-1].epoch
        words.append(f"({units.digits(epochs)} {'epoch' if epochs == 1 else 'epochs'})")
    sizes = record.training_sizes()
    if record.index is not None and len(sizes):
        pixels, aspect = sizes.prod(axis=1), sizes[:, 1] / sizes[:, 0]
        words.append(f"on {units.plural(len(sizes), 'image')}")
        words.append(f"{_learned(record.index)},")
        words.append(f"from {units.pixels(pixels.min())} to {units.pixels(pixels.max())}")
        words.append(f"and from {units.aspect(aspect.min())} to {units.aspect(aspect.max())} (width : height)")
    return " ".join(words) + "."


def _learned(index: ShapeIndex) -> str:
    """What the images are labeled with, in words."""
    if index.task == "regression":
        return f"with the number '{shown(index.classes[0])}'"
    if index.task == "multilabel":
        return f"with {units.plural(len(index.classes), 'label')}"
    return f"of {units.plural(len(index.classes), 'class', 'classes')}"


def _headlines(record: Record) -> list[Headline]:
    judged, best = record.judged, record.best
    tiles = outcome_tiles(judged, record.chosen) if judged is not None else []
    if (alone := record.shape_only) is not None:
        remark = f"width and height; by the most frequent class {units.percent(alone.chance)}"
        tiles.append(Headline(units.percent(alone.accuracy), "by shape alone", remark))
    if best is not None:
        tiles.append(Headline(units.digits(best.epoch), "best epoch", best_remark(best)))
    sizes = record.training_sizes()
    if len(sizes):
        total = int(sizes.prod(axis=1).sum())
        tiles.append(Headline(f"{len(sizes):,}", "training images", f"{units.pixels(total)} per epoch at full size"))
    if record.plan is not None:
        overhead = units.percent(record.plan.ledger.padding_overhead)
        tiles.append(Headline(overhead, "padding overhead", "in an epoch at full size"))
    if record.memory is not None:
        tiles.append(_memory_tile(record))
    if record.steps:
        speed = pixels_per_second(record.steps)
        remark = f"{units.pixels(speed)} per second in training" if speed else ""
        tiles.append(Headline(units.duration(total_seconds(record)), "total time", remark))
        tiles.append(Headline(units.percent(data_wait_share(record.steps)), "waiting for images", "of the steps' time"))
    return tiles


def _memory_tile(record: Record) -> Headline:
    assert record.memory is not None
    peak = float(record.memory.used_bytes.max())
    profile = record.limits.training if record.limits else None
    budget = profile.budget_bytes if profile else None
    where = "on the device" if record.memory.on_device else "of the process"
    remark = f"{units.percent(peak / budget, 0)} of the budget of {units.size(budget)}" if budget else where
    return Headline(units.size(peak), "peak memory", remark)


def _training(record: Record) -> list[Content]:
    lost: list[Content] = [Note(f"metrics.jsonl is incomplete: {record.lost}.")] if record.lost else []
    if not record.steps:
        return [Note(record.lack_of("metrics.jsonl", "There are no steps")), *lost]
    best, chosen = record.best, record.chosen
    words = _nothing_held_out(record) or "The run was not evaluated yet."
    if best is not None:
        words = f"The best epoch is the one with the {CHOSEN_BY[best.task]} on {best.split}."
        words += f" {chosen.words}" if chosen else ""
        words += _sizes(record) + _losses(record)
    figure = figures.training_curves(record.steps, record.evals, best, record.task)
    course = figures.COURSES[record.task][0].lower()
    return [*lost, Paragraph(words), Chart(figure, f"Loss, {course}, learning rate and batch size by epoch")]


def _sizes(record: Record) -> str:
    """Which sizes of pictures epochs were trained and evaluated at, in words; empty where it was full size alone."""
    last = {row.max_pixels: row.epoch for row in record.evals if row.max_pixels is not None}
    if not last:
        return ""
    parts = [f"up to epoch {epoch:g} at most {units.pixels(size)}" for size, epoch in last.items()]
    words = f" Epochs saw smaller pictures: {', '.join(parts)}."
    if record.final is None:
        return words
    if record.evals[-1].max_pixels is not None:
        words += " Pictures grew no further, since smaller ones did better on val (--grow while-better)."
    used = "their full size" if record.final.max_pixels is None else f"at most {units.pixels(record.final.max_pixels)}"
    return f"{words} The best weights are used on pictures of {used}, where they do best on val."


_IN_TRAINING = (("label_smoothing", "label smoothing"), ("focal", "focal loss"), ("class_weights", "class weights"))
"""What changes the loss in training alone: settings of the optimizer, and their names."""


def _losses(record: Record) -> str:
    """Why the losses in training and on val are not of one kind, in words; empty where they are."""
    values = [(record.setting("optimizer", key), name) for key, name in _IN_TRAINING]
    names = [name for value, name in values if value not in (None, 0, 0.0, "none")]
    if not names or record.task == "regression":  # which has none of them
        return ""
    return f" The loss in training is with {' and '.join(names)}, the one on val without: their levels do not compare."


def _nothing_held_out(record: Record) -> str:
    """Why there is no best epoch, in words; empty where there is a val split."""
    if record.index is None or not np.any(record.index.splits == "train") or np.any(record.index.splits == "val"):
        return ""
    figure = WORDS[LEADING[record.task][0]]
    judged = f"so no {figure} is known" if record.index.all_train else "and the test images judge them"
    return f"Nothing was held out to choose an epoch: the weights are those of the last one, {judged}."


def _machine(record: Record) -> list[Content]:
    profile = record.limits.training if record.limits else None
    budget = profile.budget_bytes if profile else None
    named = (
        ("ranks", record.limits.world_size if record.limits else None),
        ("accelerator", record.setting("device", "accelerator")),
        ("precision", record.setting("device", "precision")),
        ("memory budget", units.size(budget) if budget else None),
    )
    rows = [(name, value) for name, value in named if value is not None]
    content: list[Content] = [DataTable(("machine", ""), rows)] if rows else []
    if not record.steps:
        return [*content, Note(record.lack_of("metrics.jsonl", "There are no steps"))]
    share = data_wait_share(record.steps)
    words = (
        f"The run took {units.duration(total_seconds(record))}. Its steps spent {units.percent(share)} of their time "
        "waiting for images to be read and decoded"
    )
    words += "; more workers or faster storage would shorten it." if share > _SLOW_DATA else "."
    content.append(Paragraph(words))
    parts = [part for part in time_parts(record) if part[1] > 0]
    if parts:
        content.append(Chart(figures.time_shares(parts), "Shares of the whole run's time"))
    return content


def _settings(record: Record) -> list[Content]:
    if not record.config:
        return [Note(record.lack_of("config.toml", "There are no settings"))]
    content: list[Content] = []
    if record.edited:
        content.append(Note(f"Changed since the last checkpoint: {record.edited}."))
    elif "config.toml" in record.damaged:
        content.append(Note("These are the last checkpoint's."))
    return content + settings_tables(record.config)
