"""The page on all folds of a cross-validation: mean and spread first, then each fold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from unsquare.report.kit import units
from unsquare.report.kit.content import Chart, Content, DataTable, Headline, Page, Paragraph, Section
from unsquare.report.kit.page import write_page
from unsquare.report.kit.statistics import wilson_interval
from unsquare.report.run.facts import AccuracyGroup
from unsquare.report.run.figures import accuracy_by_group
from unsquare.runs.figures import IN_UNITS, LEADING, WORDS
from unsquare.runs.folds import PAGE, CrossValidation, FoldScores, MeanAndSpread

_SPACE = "\u00a0"


_NAMES = WORDS | {"mean_per_class_accuracy": "mean per-class accuracy", "f1_macro": "macro F1"}


def write_folds_page(folder: Path, found: CrossValidation) -> Path:
    """Write the page on all folds into their folder, and return its path.

    Raises:
        RunError: the file cannot be written.
    """
    page = Page(
        title=f"{folder.resolve().name}: {len(found.folds)} folds",
        lead=[
            f"{units.plural(found.num_images, 'image')} in {len(found.folds)} folds: each run trains on all folds but "
            "one, and is judged on that one."
        ],
        tiles=_headlines(found),
        sections=[Section("folds", "Folds", _folds(found))],
        footer="Made by unsquare from the runs of all folds. Intervals are 95 % Wilson intervals.",
    )
    return write_page(folder / PAGE, page)


def _headlines(found: CrossValidation) -> list[Headline]:
    first, second = LEADING[found.task]
    tiles = [
        _tile(found.last, first, f"{_NAMES[first]}, last epoch", "mean of the folds"),
        _tile(found.last, second, _NAMES[second], "last epoch"),
    ]
    if found.num_right is not None:
        low, high = wilson_interval(found.num_right, found.num_images)
        all_images = f"{units.percent_range(low, high)} with 95\u00a0% confidence, on all {found.num_images:,} images"
        tiles.append(Headline(units.percent(found.num_right / found.num_images), "of all images", all_images))
    tiles.append(_tile(found.best, first, f"{_NAMES[first]}, best epoch", "optimistic: chosen on the same images"))
    if found.test is not None:
        tiles.append(_tile(found.test, first, f"test {_NAMES[first]}", "of each fold's best epoch"))
    return tiles


def _tile(figures: Mapping[str, MeanAndSpread], figure: str, name: str, remark: str) -> Headline:
    if figure not in figures:
        return Headline("-", name, "not known of every fold")
    found = figures[figure]
    spread = _shown(figure, found.standard_deviation)
    if _is_accuracy(figure):
        spread = f"{100 * found.standard_deviation:.1f} points"
    return Headline(_shown(figure, found.mean), name, f"±{_SPACE}{spread} (standard deviation), {remark}")


def _is_accuracy(figure: str) -> bool:
    return figure in ("accuracy", "mean_per_class_accuracy")


def _shown(figure: str, value: float) -> str:
    if _is_accuracy(figure):
        return units.percent(value)
    return units.digits(value) if figure in IN_UNITS else f"{value:.3f}"


def _folds(found: CrossValidation) -> list[Content]:
    name = _NAMES[LEADING[found.task][0]]
    interval = ", with its 95 % interval" if found.num_right is not None else ""
    words = (
        f"{name.capitalize()} of the last epoch on the images that each fold holds out{interval}. The standard "
        "deviation of the folds tells how far a single split may be off; each run has a report in its folder."
    )
    return [Paragraph(words), *_chart(found), _table(found)]


def _chart(found: CrossValidation) -> list[Content]:
    """The accuracy of each fold; other figures have no interval to draw."""
    if found.num_right is None:
        return []
    groups = [
        AccuracyGroup(
            f"fold{_SPACE}{row.fold}",
            units.percent(row.last.figures["accuracy"]),
            row.last.num_images,
            round(row.last.figures["accuracy"] * row.last.num_images),
        )
        for row in found.folds
    ]
    return [Chart(accuracy_by_group([("By fold", groups)], found.num_right / found.num_images), "Accuracy by fold")]


def _table(found: CrossValidation) -> DataTable:
    first, second = LEADING[found.task]
    head = ["fold", "images", f"{_NAMES[first]}, last epoch", _NAMES[second], "best epoch", "the same, optimistic"]
    rows = []
    for row in found.folds:
        cells = [f"fold{_SPACE}{row.fold}", f"{row.last.num_images:,}"]
        cells += [_cell(row.last, first), _cell(row.last, second)]
        cells += [units.digits(row.best_epoch), _cell(row.best, first)]
        rows.append([*cells, _cell(row.test, first)] if row.test is not None and found.test is not None else cells)
    over = ["all", f"{found.num_images:,}", _both(found.last, first), _both(found.last, second), ""]
    over.append(_both(found.best, first))
    if found.test is not None:
        head.append(f"test {_NAMES[first]}")
        over.append(_both(found.test, first))
    return DataTable(head, [*rows, over], numeric=range(1, len(head)))


def _cell(scores: FoldScores, figure: str) -> str:
    return _shown(figure, scores.figures[figure]) if figure in scores.figures else ""


def _both(figures: Mapping[str, MeanAndSpread], figure: str) -> str:
    """Mean and standard deviation, such as 81.2 ± 2.1 %."""
    if figure not in figures:
        return ""
    found = figures[figure]
    mean = f"{100 * found.mean:.1f}" if _is_accuracy(figure) else _shown(figure, found.mean)
    return f"{mean}{_SPACE}±{_SPACE}{_shown(figure, found.standard_deviation)}"
