"""The figures of each class or label, from the counts of true and predicted ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """How well one class is recognized, or one of several labels.

    Example:
        >>> figures = unsquare.evaluate("runs/photos", "photos", split="train", quiet=True).per_class()[0]
        >>> figures.name, figures.num_images
        ('silk', 4)
        >>> 0 <= figures.accuracy <= 1
        True
    """

    name: str
    num_images: int
    """Images of the class, or with the label."""
    num_predicted: int
    """Images that are taken for it."""
    accuracy: float | None
    """Part of its images that are taken for it, also called recall; None where it has no image."""
    precision: float | None
    """Part of the images taken for it that are of it; None where none is."""
    f1: float
    """Harmonic mean of the two; 0 where nothing is right."""
    average_precision: float | None = None
    """Of labels, the area below precision over recall; None of classes, and where no image has the label."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = asdict(self)
        if self.average_precision is None:
            del values["average_precision"]
        return values


def confusion_matrix(labels: npt.NDArray[Any], predicted: npt.NDArray[Any], num_classes: int) -> npt.NDArray[np.int64]:
    """Images by label and predicted class, (C, C)."""
    pairs = labels.astype(np.int64) * num_classes + predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_figures(confusion: npt.NDArray[np.int64], classes: tuple[str, ...]) -> tuple[ClassFigures, ...]:
    """The figures of each class that occurs among labels or predictions."""
    of_class, taken, right = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    return _figures(classes, of_class, taken, right, [None] * len(classes))


def label_figures(
    truth: npt.NDArray[np.bool_],
    predicted: npt.NDArray[np.bool_],
    probability: npt.NDArray[np.float64],
    labels: tuple[str, ...],
) -> tuple[ClassFigures, ...]:
    """The figures of each label that an image has, or is predicted to have; all arrays are (N, K)."""
    precisions = [
        average_precision(truth[:, at], probability[:, at]) if truth[:, at].any() else None for at in range(len(labels))
    ]
    return _figures(labels, truth.sum(axis=0), predicted.sum(axis=0), (truth & predicted).sum(axis=0), precisions)


def average_precision(truth: npt.NDArray[np.bool_], probability: npt.NDArray[np.float64]) -> float:
    """The mean precision at each image that has a label, images of equal probability taken together; 0 without any.

    As torchmetrics computes it, which pages cannot load.
    """
    if not truth.any():
        return 0.0
    order = np.argsort(-probability, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)  # the last of equal ones
    right = np.cumsum(truth[order])[ends]
    return float(np.sum(np.diff(right, prepend=0) * right / (ends + 1)) / truth.sum())


def _figures(
    names: tuple[str, ...],
    there: npt.NDArray[Any],
    taken: npt.NDArray[Any],
    right: npt.NDArray[Any],
    precisions: Sequence[float | None],
) -> tuple[ClassFigures, ...]:
    """The figures of names, from the numbers of images that have each, are taken for it, and both."""
    return tuple(
        ClassFigures(
            name=name,
            num_images=own,
            num_predicted=found,
            accuracy=_part(both, own),
            precision=_part(both, found),
            f1=float(2 * both / (own + found)),
            average_precision=precision,
        )
        for name, own, found, both, precision in zip(names, there.tolist(), taken.tolist(), right.tolist(), precisions)
        if own or found
    )


def _part(count: int, total: int) -> float | None:
    return float(count / total) if total else None
