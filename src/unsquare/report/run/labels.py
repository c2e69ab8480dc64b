"""The sections on several labels: how well each is found, where the network is confidently wrong, and by shape."""

from __future__ import annotations

import numpy as np

from unsquare.report.kit import units
from unsquare.report.kit.content import Chart, Content, DataTable, Folded, Paragraph, Section
from unsquare.report.run import figures
from unsquare.report.run.facts import LabelFacts, facts_of_labels
from unsquare.report.run.judged import JudgedLabels

_MOST_DRAWN = 40
_MOST_LISTED = 60
_MOST_MISTAKES = 20


def label_sections(judged: JudgedLabels) -> list[Section]:
    """How well each label is found, and the most confident mistakes."""
    return [
        Section("labels", "Labels", _labels(judged)),
        Section("mistakes", "Most confident mistakes", _mistakes(judged)),
    ]


def _labels(judged: JudgedLabels) -> list[Content]:
    found = facts_of_labels(judged)
    occurs = [one for one in found if one.num_images]
    exact = float(judged.correct.mean())
    words = (
        f"Average precision is the area below precision over recall; an image has a label where its probability is at "
        f"least 50\u00a0%. All labels are right for {units.percent(exact)} of the images."
    )
    content: list[Content] = [Paragraph(words)]
    if occurs:
        drawn = sorted(occurs, key=lambda one: -one.average_precision)[:_MOST_DRAWN]
        some = f" (the {_MOST_DRAWN} best of {len(occurs)})" if len(drawn) < len(occurs) else ""
        content.append(Chart(figures.precision_by_label(drawn), f"Average precision of each label{some}"))
    table = _table(found)
    content.append(Folded(f"All {len(found)} labels", [table]) if len(found) > _MOST_LISTED else table)
    if len(occurs) < len(found):
        lacking = units.plural(len(found) - len(occurs), "label")
        content.append(Paragraph(f"{lacking} without an image, which means over labels leave out."))
    return content


def _table(found: list[LabelFacts]) -> DataTable:
    head = ("label", "images", "average precision", "F1", "precision", "recall", "predicted")
    return DataTable(head, [_row(one) for one in found], numeric=range(1, 7))


def _row(one: LabelFacts) -> tuple[str, ...]:
    precision = units.percent(one.num_right / one.num_predicted) if one.num_predicted else ""
    if not one.num_images:
        return (one.name, "0", "", "", precision, "", f"{one.num_predicted:,}")
    recall = units.percent(one.num_right / one.num_images)
    found = (f"{one.average_precision:.3f}", f"{one.f1:.3f}", precision, recall)
    return (one.name, f"{one.num_images:,}", *found, f"{one.num_predicted:,}")


def _mistakes(judged: JudgedLabels) -> list[Content]:
    wrong = np.argwhere(judged.truth != judged.predicted)
    if not len(wrong):
        return [Paragraph("All labels of all images are right.")]
    confidence = np.abs(judged.probability[wrong[:, 0], wrong[:, 1]] - 0.5)
    worst = wrong[np.argsort(-confidence, kind="stable")][:_MOST_MISTAKES]
    rows = [
        (
            judged.keys[row],
            judged.labels[label],
            "yes" if judged.truth[row, label] else "no",
            units.percent(float(judged.probability[row, label])),
            f"{judged.sizes[row, 0]} x {judged.sizes[row, 1]}",
        )
        for row, label in worst
    ]
    words = (
        f"{units.plural(len(wrong), 'decision')} of {judged.truth.size:,} wrong; the most confident mistakes are often "
        "wrong labels."
    )
    return [Paragraph(words), DataTable(("image", "label", "true", "probability", "height x width"), rows, (3, 4))]
