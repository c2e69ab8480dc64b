"""Per-class figures, against those of torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
)

from unsquare.runs.per_class import class_figures, confusion_matrix


@pytest.mark.parametrize("num_classes", [2, 3, 9])
def test_figures_are_those_of_torchmetrics(rng, num_classes: int) -> None:
    """Counts, accuracy, precision and F1 of every class that has images and predictions."""
    labels = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, 200)]).astype(np.int32)
    predicted = np.where(rng.random(len(labels)) < 0.6, labels, rng.permutation(labels))
    confusion = confusion_matrix(labels, predicted, num_classes)
    given = (torch.from_numpy(predicted.astype(np.int64)), torch.from_numpy(labels.astype(np.int64)), num_classes)
    np.testing.assert_array_equal(confusion, multiclass_confusion_matrix(*given).numpy())
    found = class_figures(confusion, tuple(map(str, range(num_classes))))
    for name, metric in (
        ("accuracy", multiclass_accuracy),
        ("precision", multiclass_precision),
        ("f1", multiclass_f1_score),
    ):
        expected = metric(*given, average="none").tolist()
        assert [getattr(each, name) for each in found] == pytest.approx(expected, abs=1e-6)
    assert [each.num_images for each in found] == np.bincount(labels).tolist()


def test_a_class_without_images_has_no_accuracy() -> None:
    """Where it is predicted; a class that nothing has or gets is left out."""
    confusion = confusion_matrix(np.array([0, 0, 1]), np.array([0, 2, 0]), 4)
    one, two, three = class_figures(confusion, ("a", "b", "c", "d"))
    assert (one.name, one.num_images, one.num_predicted, one.accuracy, one.precision) == ("a", 2, 2, 0.5, 0.5)
    assert (two.num_predicted, two.accuracy, two.precision, two.f1) == (0, 0.0, None, 0.0)
    assert (three.name, three.num_images, three.accuracy, three.precision) == ("c", 0, None, 0.0)
