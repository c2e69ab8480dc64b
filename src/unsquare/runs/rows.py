"""The rows of `metrics.jsonl`: steps, evaluations and starts.

Unlike in other files (`schemas`), a row must have no member that is not listed here: a damaged name would silently
become a default.
"""

from __future__ import annotations

from msgspec import Struct

from unsquare.index.table import Task
from unsquare.memory.model import Amount
from unsquare.runs.figures import FIGURES, score_of
from unsquare.runs.schemas import BatchShape, Count, FiniteNumber, MeasuredBatch, Positive, Share


def _require_figure(accuracy: float | None, error: float | None) -> None:
    """Refuse rows that lost the figure that every task has one of."""
    if accuracy is None and error is None:
        raise ValueError("It has neither accuracy nor mae")


class StepRow(Struct, tag_field="kind", tag="step", forbid_unknown_fields=True):
    """A row of `metrics.jsonl`: one optimizer step."""

    step: Positive
    epoch: Amount
    time_s: Amount
    loss: FiniteNumber
    learning_rate: FiniteNumber
    num_images: Positive
    accuracy: Share | None = None
    """Part of the images, or of the decisions on labels, that are right; None in a regression."""
    mae: Amount | None = None
    """Mean absolute error of a regression; None in other tasks."""
    gradient_norm: Amount | None = None
    """None where it was not a finite number."""
    num_micro_batches: Count = 0
    real_pixels: Count = 0
    computed_pixels: Count = 0
    data_wait_s: Amount = 0.0
    step_s: Amount = 0.0
    shortages: Count = 0
    micro_batches: list[BatchShape] = []
    measured: list[MeasuredBatch] = []

    def __post_init__(self) -> None:
        _require_figure(self.accuracy, self.mae)


class EvaluationRow(Struct, tag_field="kind", tag="eval", forbid_unknown_fields=True):
    """A row of `metrics.jsonl`: an evaluation during training."""

    step: Count
    epoch: Amount
    time_s: Amount
    split: str
    loss: FiniteNumber
    num_images: Positive
    seconds: Amount = 0.0
    max_pixels: Positive | None = None
    """The most pixels of the pictures; None where they had their full size."""
    accuracy: Share | None = None
    mean_per_class_accuracy: Share | None = None
    """Of classes alone, as the next three are of labels, and the others of a regression."""
    mean_average_precision: Share | None = None
    f1_macro: Share | None = None
    f1_micro: Share | None = None
    mae: Amount | None = None
    relative_mae: Amount | None = None
    rmse: Amount | None = None
    r2: FiniteNumber | None = None
    """None where all true values are the same."""

    def __post_init__(self) -> None:
        _require_figure(self.accuracy, self.mae)

    @property
    def task(self) -> Task:
        """What was learned."""
        if self.mae is not None:
            return "regression"
        return "multilabel" if self.mean_per_class_accuracy is None else "classification"

    @property
    def figures(self) -> dict[str, float]:
        """The figures that the task has, by name."""
        return {name: value for name in FIGURES if (value := getattr(self, name)) is not None}

    @property
    def score(self) -> float:
        """The figure that chooses the best weights."""
        return score_of(self.mean_per_class_accuracy, self.mean_average_precision, self.relative_mae)


class FinalRow(EvaluationRow, tag_field="kind", tag="final", forbid_unknown_fields=True):
    """A row of `metrics.jsonl`: the evaluation of the best weights, after training."""


class StartRow(Struct, tag_field="kind", tag="start", forbid_unknown_fields=True):
    """A row of `metrics.jsonl`: a process started to train, or resumed."""

    step: Count
    """Steps done before."""
    time_s: Amount
    seconds: Amount
    """From the call to the first step: reading headers, creating the network, measuring, planning."""


MetricsRow = StepRow | EvaluationRow | FinalRow | StartRow
