"""The sections on values: predicted against true ones, and the images with the largest errors."""

from __future__ import annotations

import numpy as np

from unsquare.report.kit import units
from unsquare.report.kit.content import Chart, Content, DataTable, Paragraph, Section
from unsquare.report.run import figures
from unsquare.report.run.judged import JudgedValues

_MOST_ERRORS = 20


def value_sections(judged: JudgedValues, name: str) -> list[Section]:
    """How far predicted values are from true ones.

    Args:
        judged: the evaluated images.
        name: that of the value.
    """
    return [
        Section("values", "Values", _values(judged, name)),
        Section("errors", "Largest errors", _largest(judged)),
    ]


def _values(judged: JudgedValues, name: str) -> list[Content]:
    errors = np.abs(judged.predicted - judged.truth)
    half, most = np.quantile(errors, [0.5, 0.9])
    guess = float(np.abs(judged.truth - np.median(judged.truth)).mean())
    words = (
        f"Half of the errors are below {units.digits(half)}, nine tenths below {units.digits(most)}. Always predicting "
        f"the median of the true values would be off by {units.digits(guess)} on average."
    )
    drawing = figures.predicted_against_true(judged.truth, judged.predicted, name)
    return [Paragraph(words), Chart(drawing, f"Predicted {name} against the true one, and errors")]


def _largest(judged: JudgedValues) -> list[Content]:
    errors = judged.predicted - judged.truth
    worst = np.argsort(-np.abs(errors), kind="stable")[:_MOST_ERRORS]
    rows = [
        (
            judged.keys[row],
            *(f"{number:.4g}" for number in (judged.truth[row], judged.predicted[row])),
            f"{errors[row]:+.4g}",
            f"{judged.sizes[row, 0]} x {judged.sizes[row, 1]}",
        )
        for row in worst
    ]
    return [DataTable(("image", "true", "predicted", "error", "height x width"), rows, numeric=(1, 2, 3, 4))]
