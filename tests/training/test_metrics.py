"""What an evaluation says of predictions."""

import numpy as np
import pytest
import torch

from unsquare.training.metrics import summarize


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("wrong", [1, 9])
def test_classes_without_images_do_not_count(num_classes, wrong):
    """The mean over classes is that of the classes that images have, whatever else is predicted."""
    labels = np.array([0] * 10 + [1] * 5, dtype=np.int32)
    predicted = labels.copy()
    predicted[3] = min(wrong, num_classes - 1)
    outcome = torch.from_numpy(np.stack([predicted, np.full(15, 0.6)], axis=1))
    found = summarize(torch.full((15,), 0.5), outcome, labels, 1.0)
    assert found.accuracy == pytest.approx(14 / 15)
    assert found.mean_per_class_accuracy == pytest.approx((0.9 + 1.0) / 2)
