"""The sections on how well the network does: of classes by class, where it is confidently wrong, and by shape."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unsquare.index.table import Task
from unsquare.report.kit import units
from unsquare.report.kit.content import (
    Chart,
    ConfusionMatrix,
    Content,
    DataTable,
    Folded,
    Heading,
    Note,
    Paragraph,
    Section,
)
from unsquare.report.kit.statistics import wilson_interval
from unsquare.report.run import figures
from unsquare.report.run.facts import (
    LEAST_GROUP_IMAGES,
    LEAST_JUDGED_IMAGES,
    aspect_groups,
    confusion,
    size_groups,
)
from unsquare.report.run.judged import JudgedImages, JudgedLabels, JudgedValues
from unsquare.report.run.labels import label_sections
from unsquare.report.run.record import Record
from unsquare.report.run.values import value_sections

_MOST_CLASSES = 60
_SPARSE_CLASSES = 20
_MOST_PAIRS = 10
_MOST_MISTAKES = 20
_TITLES: dict[Task, str] = {"classification": "Classes", "multilabel": "Labels", "regression": "Values"}
_WHAT: dict[Task, str] = {
    "classification": "each class is recognized",
    "multilabel": "each label is found",
    "regression": "values are predicted",
}


def outcome_sections(record: Record) -> list[Section]:
    """How well classes, labels or values are predicted, where the network is most wrong, and accuracy by shape."""
    judged = record.evaluation
    if judged is None:
        words = record.lack_of("evaluation.parquet", "The run was not evaluated yet: there is no evaluation")
        if record.index is not None and record.index.all_train and "evaluation.parquet" not in record.damaged:
            words = f"All images were trained on, so none are left to tell how well {_WHAT[record.task]}."
        return [Section("classes", _TITLES[record.task], [Note(words)])]
    if isinstance(judged, JudgedValues):
        return value_sections(judged, record.index.classes[0] if record.index else "value")
    if isinstance(judged, JudgedLabels):
        sections = label_sections(judged)
    else:
        sections = [
            Section("classes", "Classes", _classes(record, judged)),
            Section("mistakes", "Most confident mistakes", _mistakes(judged)),
        ]
    if len(judged.keys) >= LEAST_JUDGED_IMAGES:
        sections.append(Section("by-shape", "Accuracy by shape", _by_shape(judged)))
    return sections


def _classes(record: Record, judged: JudgedImages) -> list[Content]:
    classes = sorted({*judged.labels, *judged.predicted, *(record.index.classes if record.index else ())})
    counts = confusion(judged.labels, judged.predicted, classes)
    table = _class_table(counts, classes)
    many = len(table.rows) > _SPARSE_CLASSES
    content: list[Content] = [Folded("Accuracy of each class", [table]) if many else table, Heading("Confusion")]
    if len(classes) <= _MOST_CLASSES:
        matrix = ConfusionMatrix(classes, counts.tolist(), dense=len(classes) > _SPARSE_CLASSES)
        content += [Paragraph("Images by true and predicted class, darker for a larger share of the row."), matrix]
    else:
        content.append(Paragraph(f"The most frequent confusions of {len(classes)} classes:"))
    return [*content, _pairs(counts, classes)]


def _class_table(counts: npt.NDArray[np.int64], classes: list[str]) -> DataTable:
    rows = []
    for position, name in enumerate(classes):
        total, right = int(counts[position].sum()), int(counts[position, position])
        if total:
            low, high = wilson_interval(right, total)
            predicted = int(counts[:, position].sum())
            precision = units.percent(right / predicted) if predicted else ""
            rows.append((name, f"{total:,}", units.percent(right / total), units.percent_range(low, high), precision))
    head = ("class", "images", "accuracy", "95 % interval", "precision")
    return DataTable(head, rows, numeric=(1, 2, 3, 4))


def _pairs(counts: npt.NDArray[np.int64], classes: list[str]) -> Content:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_PAIRS]
    rows = []
    for row, column in zip(*np.unravel_index(order, wrong.shape)):
        count = int(wrong[row, column])
        if count:
            share = units.percent(count / int(counts[row].sum()), 0)
            rows.append((classes[row], classes[column], f"{count:,}", share))
    if not rows:
        return Paragraph("There are no confusions.")
    head = ("true class", "predicted class", "images", "share of the class")
    return Folded("Most frequent confusions", [DataTable(head, rows, numeric=(2, 3))])


def _mistakes(judged: JudgedImages) -> list[Content]:
    wrong = np.flatnonzero(~judged.correct)
    if not len(wrong):
        return [Paragraph("No image was classified wrongly.")]
    worst = wrong[np.argsort(-judged.probability[wrong], kind="stable")][:_MOST_MISTAKES]
    rows = [
        (
            judged.keys[row],
            judged.labels[row],
            judged.predicted[row],
            units.percent(float(judged.probability[row])),
            f"{judged.sizes[row, 0]} x {judged.sizes[row, 1]}",
        )
        for row in worst
    ]
    words = (
        f"{units.plural(len(wrong), 'image')} of {len(judged.keys):,} classified wrongly; the most confident mistakes "
        "are often wrong labels."
    )
    head = ("image", "true class", "predicted class", "probability", "height x width")
    return [Paragraph(words), DataTable(head, rows, numeric=(3, 4))]


def _by_shape(judged: JudgedImages | JudgedLabels) -> list[Content]:
    correct = judged.correct
    panels = [
        ("By number of pixels", size_groups(judged.sizes, correct)),
        ("By width : height", aspect_groups(judged.sizes, correct)),
    ]
    enough = [
        (title, [group for group in groups if group.num_images >= LEAST_GROUP_IMAGES]) for title, groups in panels
    ]
    words = "Accuracy of each group with its 95 % interval"
    if isinstance(judged, JudgedLabels):
        words = "An image counts as right where all of its labels are. " + words
    if sum(len(groups) for _, groups in enough) < sum(len(groups) for _, groups in panels):
        words += f"; groups below {LEAST_GROUP_IMAGES} images are left out"
    figure = figures.accuracy_by_group([panel for panel in enough if panel[1]], float(correct.mean()))
    return [Paragraph(f"{words}."), Chart(figure, "Accuracy by size and by aspect ratio")]
