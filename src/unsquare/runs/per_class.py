"""The figures of each class, from the counts of true and predicted classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """How well one class is recognized.

    Example:
        >>> figures = unsquare.evaluate("runs/photos", "photos", split="train", quiet=True).per_class()[0]
        >>> figures.name, figures.num_images
        ('silk', 4)
        >>> 0 <= figures.accuracy <= 1
        True
    """

    name: str
    num_images: int
    """Images of the class."""
    num_predicted: int
    """Images that are taken for it."""
    accuracy: float | None
    """Part of its images that are taken for it, also called recall; None where it has no image."""
    precision: float | None
    """Part of the images taken for it that are of it; None where none is."""
    f1: float
    """Harmonic mean of the two; 0 where nothing is right."""


def confusion_matrix(labels: npt.NDArray[Any], predicted: npt.NDArray[Any], num_classes: int) -> npt.NDArray[np.int64]:
    """Images by label and predicted class, (C, C)."""
    pairs = labels.astype(np.int64) * num_classes + predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_figures(confusion: npt.NDArray[np.int64], classes: tuple[str, ...]) -> tuple[ClassFigures, ...]:
    """The figures of each class that occurs among labels or predictions."""
    of_class, taken, right = confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist(), confusion.diagonal()
    return tuple(
        ClassFigures(
            name=name,
            num_images=of_class[at],
            num_predicted=taken[at],
            accuracy=_part(right[at], of_class[at]),
            precision=_part(right[at], taken[at]),
            f1=float(2 * right[at] / (of_class[at] + taken[at])),
        )
        for at, name in enumerate(classes)
        if of_class[at] or taken[at]
    )


def _part(count: int, total: int) -> float | None:
    return float(count / total) if total else None
