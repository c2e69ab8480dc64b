"""The sections on how well the network does: by class, by shape, and where it is confidently wrong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unsquare.report import markup, shape_figures, units
from unsquare.report.markup import Section
from unsquare.report.record import Evaluation, Record
from unsquare.report.statistics import aspect_groups, confusion, size_groups, wilson_interval

_MOST_CLASSES = 60
_ROOMY_CLASSES = 20
_MOST_PAIRS = 10
_MOST_MISTAKES = 20


def evaluation_sections(record: Record) -> list[Section]:
    """Confusion of classes, accuracy by shape, and the most confident mistakes."""
    evaluation = record.evaluation
    if evaluation is None:
        words = record.lack_of("evaluation.parquet", "The run was not evaluated yet: there is no evaluation")
        return [Section("classes", "Classes", markup.note(words))]
    return [
        Section("classes", "Classes", _classes(record, evaluation)),
        Section("by-shape", "Accuracy by shape", _by_shape(evaluation)),
        Section("mistakes", "Most confident mistakes", _mistakes(evaluation)),
    ]


def _classes(record: Record, evaluation: Evaluation) -> str:
    classes = sorted({*evaluation.labels, *evaluation.predicted, *(record.index.classes if record.index else ())})
    counts = confusion(evaluation.labels, evaluation.predicted, classes)
    body = markup.paragraph(
        f"Of {units.plural(len(evaluation.keys), 'evaluated image')}: each row is a true class, each column "
        "what the network said; on the diagonal it is right. Cells count images, and are darker the larger "
        "their part of the row."
    )
    if len(classes) <= _MOST_CLASSES:
        body += _matrix(counts, classes)
    else:
        body = markup.paragraph(f"With {len(classes)} classes, only the most frequent confusions are shown.")
    return body + _pairs(counts, classes) + markup.folded("Accuracy of each class", _class_table(counts, classes))


def _matrix(counts: npt.NDArray[np.int64], classes: list[str]) -> str:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    head = "".join(
        f'<th class="column" title="{markup.text(name)}"><span>{markup.text(name)}</span></th>' for name in classes
    )
    rows = []
    for row, name in enumerate(classes):
        cells = "".join(
            _cell(int(counts[row, column]), float(shares[row, column]), row == column) for column in range(len(classes))
        )
        rows.append(f'<tr><th class="row" title="{markup.text(name)}">{markup.text(name)}</th>{cells}</tr>')
    size = "matrix" if len(classes) <= _ROOMY_CLASSES else "matrix many"
    return (
        f'<div class="scroll {size}"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(count: int, share: float, right: bool) -> str:
    red, green, blue = (39, 103, 143) if right else (184, 64, 58)
    ink = "#fff" if share > 0.55 else "#2b333b"
    # The square root lets single mistakes in large classes show.
    opacity = 0.06 if count == 0 else 0.1 + 0.9 * share**0.5
    style = f"background:rgba({red},{green},{blue},{opacity:.2f});color:{ink}"
    if count == 0:
        style = "background:#f1f3f5"
    return f'<td style="{style}">{count or ""}</td>'


def _pairs(counts: npt.NDArray[np.int64], classes: list[str]) -> str:
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
        return markup.paragraph("No image was classified wrongly.")
    head = ("class", "taken for", "images", "of the class")
    return markup.folded("Most frequent confusions", markup.table(head, rows, numeric=(2, 3)))


def _class_table(counts: npt.NDArray[np.int64], classes: list[str]) -> str:
    rows = []
    for position, name in enumerate(classes):
        total, right = int(counts[position].sum()), int(counts[position, position])
        if total:
            low, high = wilson_interval(right, total)
            interval = units.percent_range(low, high)
            rows.append((name, f"{total:,}", units.percent(right / total), interval))
    return markup.table(("class", "images", "accuracy", "95 % interval"), rows, numeric=(1, 2, 3))


def _by_shape(evaluation: Evaluation) -> str:
    correct = evaluation.correct
    panels = [
        ("By number of pixels", size_groups(evaluation.sizes, correct)),
        ("By width to height", aspect_groups(evaluation.sizes, correct)),
    ]
    words = (
        "Points with their 95 % intervals; the dashed line is the accuracy over all images. An interval that "
        "lies wholly beside it suggests that shape matters."
    )
    figure = shape_figures.accuracy_by_group(panels, float(correct.mean()))
    return markup.paragraph(words) + markup.image(figure, "Accuracy by size and by aspect ratio")


def _mistakes(evaluation: Evaluation) -> str:
    wrong = np.flatnonzero(~evaluation.correct)
    if not len(wrong):
        return markup.paragraph("No image was classified wrongly.")
    worst = wrong[np.argsort(-evaluation.probability[wrong], kind="stable")][:_MOST_MISTAKES]
    rows = [
        (
            evaluation.keys[row],
            evaluation.labels[row],
            evaluation.predicted[row],
            units.percent(float(evaluation.probability[row])),
            f"{evaluation.sizes[row, 0]} x {evaluation.sizes[row, 1]}",
        )
        for row in worst
    ]
    words = (
        f"{units.plural(len(wrong), 'image')} of {len(evaluation.keys):,} classified wrongly. "
        "The ones that the network was surest of are often labels worth a second look."
    )
    head = ("image", "class", "taken for", "probability", "height x width")
    return markup.paragraph(words) + markup.table(head, rows, numeric=(3, 4))
