"""The last evaluation, image by image, by what was learned: classes, labels or values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from unsquare.report.kit.statistics import FloatArray
from unsquare.runs.tables import LABELS_EVALUATION, VALUES_EVALUATION
from unsquare.shapes import Sizes


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedImages:
    """The last evaluation of classes; one entry for each image."""

    keys: list[str]
    labels: list[str]
    predicted: list[str]
    probability: FloatArray
    sizes: Sizes

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each prediction is the label."""
        return np.array([a == b for a, b in zip(self.labels, self.predicted)], dtype=bool)


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedLabels:
    """The last evaluation of several labels; one row for each image, one column for each label."""

    keys: list[str]
    labels: Sequence[str]
    """Names of all labels."""
    truth: npt.NDArray[np.bool_]
    """(N, K) whether an image has a label."""
    predicted: npt.NDArray[np.bool_]
    """(N, K) whether it is predicted to have it."""
    probability: FloatArray
    """(N, K)"""
    sizes: Sizes

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(N,) whether all labels of an image are right."""
        return np.logical_not((self.truth != self.predicted).any(axis=1))


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedValues:
    """The last evaluation of values; one entry for each image."""

    keys: list[str]
    truth: FloatArray
    predicted: FloatArray
    sizes: Sizes


Judged: TypeAlias = JudgedImages | JudgedLabels | JudgedValues


def judged_of(table: pa.Table, classes: Sequence[str]) -> Judged | None:
    """The images of `evaluation.parquet` that have labels, None where there are none.

    Args:
        table: its rows.
        classes: names of the labels, in the order of their probabilities.

    Raises:
        ValueError: it does not fit these labels.
    """
    rows = table.to_pylist()
    if table.column_names == VALUES_EVALUATION.names and rows:
        truth, predicted = (np.array([row[name] for row in rows], dtype=float) for name in ("value", "predicted"))
        return JudgedValues(keys=[row["key"] for row in rows], truth=truth, predicted=predicted, sizes=_sizes(rows))
    if table.column_names == LABELS_EVALUATION.names and rows:
        return _labels(rows, classes)
    rows = [row for row in rows if row.get("label")]
    if not rows:
        return None
    return JudgedImages(
        keys=[row["key"] for row in rows],
        labels=[row["label"] for row in rows],
        predicted=[row["predicted"] for row in rows],
        probability=np.array([row["probability"] for row in rows], dtype=np.float64),
        sizes=_sizes(rows),
    )


def _labels(rows: Sequence[dict[str, Any]], classes: Sequence[str]) -> JudgedLabels:
    wrong = any(len(row["probabilities"]) != len(classes) for row in rows)
    if wrong or not set().union(*(row[name] for row in rows for name in ("labels", "predicted"))) <= set(classes):
        raise ValueError("its labels are not those of the index")
    position = {name: at for at, name in enumerate(classes)}
    truth, predicted = (np.zeros((len(rows), len(classes)), dtype=bool) for _ in range(2))
    for at, row in enumerate(rows):
        truth[at, [position[name] for name in row["labels"]]] = True
        predicted[at, [position[name] for name in row["predicted"]]] = True
    return JudgedLabels(
        keys=[row["key"] for row in rows],
        labels=classes,
        truth=truth,
        predicted=predicted,
        probability=np.array([row["probabilities"] for row in rows], dtype=np.float64),
        sizes=_sizes(rows),
    )


def _sizes(rows: Sequence[dict[str, Any]]) -> Sizes:
    return np.array([(row["height"], row["width"]) for row in rows], dtype=np.int64)
