"""Weighted and balanced epochs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsquare.errors import PlanError
from unsquare.plan import Limits, PlanConfig, class_weights, plan_epoch
from unsquare.plan.repeats import repeated


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(0, 5), min_size=1, max_size=50).filter(any), st.integers(0, 20))
def test_each_image_comes_as_often_as_it_is_due(weights, epoch):
    """In every epoch the whole number below or above N w / sum(w), and N images in all."""
    values = np.array(weights)
    images = repeated(values, len(values), 0, epoch)
    assert len(images) == len(values)
    assert (np.diff(images) >= 0).all()
    due = values / values.sum() * len(values)
    assert (np.abs(np.bincount(images, minlength=len(values)) - due) < 1 + 1e-6).all()


def test_over_epochs_the_mean_is_what_is_due():
    """A weight of a half comes every other epoch, at random, and not together with its neighbour."""
    weights = np.array([0.5] * 8 + [1.0] * 4)
    counts = np.array([np.bincount(repeated(weights, 12, 0, epoch), minlength=12) for epoch in range(1000)])
    assert np.allclose(counts.mean(axis=0), weights * 1.5, atol=0.08)
    assert np.abs(np.corrcoef(counts[:, :2].T)[0, 1]) < 0.4


@pytest.mark.parametrize("steps", ["mixed", "b2b"])
def test_balanced_epochs_show_each_class_as_often(steps, random_sizes):
    """Of classes of 150, 40 and 10 images an epoch shows 66 or 67 each, within the same rules as any plan."""
    labels = np.repeat([0, 1, 2], [150, 40, 10])
    config = PlanConfig(steps=steps, sampling="balanced", step_images=20)
    limits = Limits(budget_pixels=10_000, launch_pixels=50)
    plan = plan_epoch(random_sizes, config, limits, 0, weights=class_weights(labels))
    images = np.concatenate([batch.images for batch in plan.micro_batches])
    assert len(images) == 200
    assert (np.abs(np.bincount(labels[images]) - 200 / 3) <= 2).all()
    for batch in plan.micro_batches:
        assert batch.canvas == tuple(random_sizes[batch.images].max(axis=0))
        assert batch.computed_pixels <= 10_000


def test_unlabelled_images_keep_the_mean_weight():
    """Weights of known classes average 1, as an image without a class has."""
    weights = class_weights([0, 0, 0, 1, -1])
    assert weights.tolist() == [4 / 6, 4 / 6, 4 / 6, 2, 1]
    assert class_weights([-1, -1]).tolist() == [1, 1]


@pytest.mark.parametrize("weights", [[1.0, np.nan], [1.0, -1.0], [0.0, 0.0], [1.0]])
def test_weights_are_checked(weights):
    """Missing, negative or no weight at all is refused with what was received."""
    with pytest.raises(PlanError, match="one finite number of at least 0 for each of the 2 images"):
        plan_epoch([(3, 3), (4, 4)], PlanConfig(), Limits(), 0, weights=weights)


def test_balanced_sampling_needs_weights():
    """The planner knows no labels, so it says what to pass."""
    with pytest.raises(PlanError, match="class_weights"):
        plan_epoch([(3, 3)], PlanConfig(sampling="balanced"), Limits(), 0)
