"""What an evaluation says of predictions."""

import numpy as np
import pytest
import torch

from unsquare.index.table import ShapeIndex
from unsquare.index.text import strings
from unsquare.network.losses import Objective
from unsquare.training.metrics import summarize


def images_of(labels, num_classes, task="classification"):
    """Images with these classes, or these targets of another task."""
    number = len(labels)
    classes = task == "classification"
    return ShapeIndex(
        root="pictures",
        classes=tuple(f"class {at}" for at in range(num_classes)),
        keys=strings([f"{at:03}.jpg" for at in range(number)]),
        sizes=np.full((number, 2), 40),
        labels=labels if classes else np.full(number, -1, dtype=np.int32),
        splits=strings(["val"] * number),
        num_bytes=np.zeros(number, dtype=np.int64),
        modified_ns=np.zeros(number, dtype=np.int64),
        task=task,
        targets=None if classes else labels,
    )


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("wrong", [1, 9])
def test_classes_without_images_do_not_count(num_classes, wrong):
    """The mean over classes is that of the classes that images have, whatever else is predicted."""
    labels = np.array([0] * 10 + [1] * 5, dtype=np.int32)
    predicted = labels.copy()
    predicted[3] = min(wrong, num_classes - 1)
    outcome = torch.from_numpy(np.stack([predicted, np.full(15, 0.6)], axis=1))
    found = summarize(torch.full((15,), 0.5), outcome, images_of(labels, num_classes), 1.0)
    assert found.accuracy == pytest.approx(14 / 15)
    assert found.mean_per_class_accuracy == pytest.approx((0.9 + 1.0) / 2)


def _average_precision(truth: np.ndarray, probability: np.ndarray) -> float:
    """By its definition: the mean, over images that have the label, of the precision among all ranked as high."""
    return float(np.mean([truth[probability >= each].mean() for each in probability[truth]]))


def test_figures_of_labels(rng):
    """Average precision and F1 by their definitions; a label that no image has is left out of the means."""
    truth = rng.random((40, 5)) < (0.1, 0.5, 0.9, 0.3, 0.0)
    probability = rng.random((40, 5)).round(1)  # with ties
    images, objective = images_of(truth.astype(float), 5, "multilabel"), Objective(task="multilabel")
    found = summarize(torch.zeros(40), torch.from_numpy(probability), images, 1.0, objective)
    predicted = probability >= 0.5
    both, either = (truth & predicted).sum(0), truth.sum(0) + predicted.sum(0)
    f1 = 2 * both / either
    expected = np.mean([_average_precision(truth[:, at], probability[:, at]) for at in range(4)])
    assert found.mean_average_precision == pytest.approx(expected, rel=1e-6)
    assert found.f1_macro == pytest.approx(f1[:4].mean(), rel=1e-6)
    assert found.f1_micro == pytest.approx(2 * both.sum() / either.sum(), rel=1e-6)
    assert found.accuracy == pytest.approx((truth == predicted).mean())
    assert found.score == pytest.approx(expected, rel=1e-6)
    assert not {"mae", "r2", "mean_per_class_accuracy"} & set(found.to_dict())


def test_figures_of_values(rng):
    """Errors and R2 by their definitions, in the unit of the values."""
    truth, predicted = rng.normal(50, 9, 30), rng.normal(50, 9, 30)
    objective = Objective(task="regression", mean=50, std=9)
    images = images_of(truth[:, None], 1, "regression")
    found = summarize(torch.zeros(30), torch.from_numpy(predicted[:, None]), images, 1.0, objective)
    off = predicted - truth
    assert found.mae == pytest.approx(np.abs(off).mean())
    assert found.relative_mae == pytest.approx(np.abs(off).mean() / 9)
    assert found.rmse == pytest.approx(np.sqrt((off**2).mean()))
    assert found.r2 == pytest.approx(1 - (off**2).sum() / ((truth - truth.mean()) ** 2).sum())
    assert 0 < found.score < 1
    images = images_of(np.full((2, 1), 3.0), 1, "regression")
    same = summarize(torch.zeros(2), torch.ones(2, 1).double(), images, 1.0, objective)
    assert "r2" not in same.to_dict()
    assert (same.score > found.score) == (same.mae < found.mae)
