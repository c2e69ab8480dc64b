"""The page on all folds of a cross-validation: mean and spread first, then each fold."""

from __future__ import annotations

from pathlib import Path

from unsquare.report.kit import units
from unsquare.report.kit.content import Chart, Content, DataTable, Headline, Page, Paragraph, Section
from unsquare.report.kit.page import write_page
from unsquare.report.kit.statistics import wilson_interval
from unsquare.report.run.facts import AccuracyGroup
from unsquare.report.run.figures import accuracy_by_group
from unsquare.runs.folds import PAGE, CrossValidation, FoldScores, MeanAndSpread

_SPACE = "\u00a0"


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
    low, high = wilson_interval(found.num_right, found.num_images)
    all_images = f"{units.percent_range(low, high)} with 95\u00a0% confidence, on all {found.num_images:,} images"
    tiles = [
        _tile(found.accuracy, "accuracy, last epoch", "mean of the folds"),
        _tile(found.mean_per_class_accuracy, "mean per-class accuracy", "last epoch"),
        Headline(units.percent(found.num_right / found.num_images), "of all images", all_images),
        _tile(found.best_accuracy, "accuracy, best epoch", "optimistic: chosen on the same images"),
    ]
    if found.test_accuracy is not None:
        tiles.append(_tile(found.test_accuracy, "test accuracy", "of each fold's best epoch"))
    return tiles


def _tile(figure: MeanAndSpread, name: str, remark: str) -> Headline:
    spread = f"±{_SPACE}{100 * figure.standard_deviation:.1f} points"
    return Headline(units.percent(figure.mean), name, f"{spread} (standard deviation), {remark}")


def _folds(found: CrossValidation) -> list[Content]:
    groups = [
        AccuracyGroup(
            f"fold{_SPACE}{row.fold}",
            units.percent(scores.accuracy),
            scores.num_images,
            round(scores.accuracy * scores.num_images),
        )
        for row, scores in ((row, row.last) for row in found.folds)
    ]
    words = (
        "Accuracy of the last epoch on the images that each fold holds out, with its 95 % interval. The standard "
        "deviation of the folds tells how far a single split may be off; each run has a report in its folder."
    )
    chart = Chart(accuracy_by_group([("By fold", groups)], found.num_right / found.num_images), "Accuracy by fold")
    return [Paragraph(words), chart, _table(found)]


def _table(found: CrossValidation) -> DataTable:
    has_test = found.test_accuracy is not None
    head = ["fold", "images", "accuracy, last epoch", "mean per class", "best epoch", "its accuracy, optimistic"]
    rows = []
    for row in found.folds:
        cells = [f"fold{_SPACE}{row.fold}", f"{row.last.num_images:,}", *_shares(row.last)]
        cells += [units.digits(row.best_epoch), units.percent(row.best.accuracy)]
        rows.append([*cells, units.percent(row.test.accuracy)] if row.test is not None and has_test else cells)
    over = ["all", f"{found.num_images:,}", _both(found.accuracy), _both(found.mean_per_class_accuracy), ""]
    over.append(_both(found.best_accuracy))
    if found.test_accuracy is not None:
        head.append("test accuracy")
        over.append(_both(found.test_accuracy))
    return DataTable(head, [*rows, over], numeric=range(1, len(head)))


def _shares(scores: FoldScores) -> tuple[str, str]:
    return units.percent(scores.accuracy), units.percent(scores.mean_per_class_accuracy)


def _both(figure: MeanAndSpread) -> str:
    """Mean and standard deviation, such as 81.2 ± 2.1 %."""
    return f"{100 * figure.mean:.1f}{_SPACE}±{_SPACE}{units.percent(figure.standard_deviation)}"
