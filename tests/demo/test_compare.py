"""The comparison's other methods are what they claim to be, so that the comparison is fair."""

import numpy as np
import pytest
import torch

from unsquare.demo.naive import BATCH, NaiveClassifier, plan_random, plan_random_in_order
from unsquare.network.classifier import Classifier
from unsquare.network.config import ModelConfig
from unsquare.plan.config import Limits, PlanConfig
from unsquare.plan.planner import plan_epoch

CONFIG, LIMITS = PlanConfig(step_images=20), Limits(launch_pixels=2_000)


@pytest.fixture
def sizes(rng):
    """Sixty shapes of many sizes."""
    return rng.integers(40, 200, (60, 2))


def test_random_batches_hold_the_same_images_step_by_step(sizes):
    """Each step has the images that the usual plan gives it, only batched without regard to shape."""
    random, usual = plan_random(sizes, CONFIG, LIMITS, 0), plan_epoch(sizes, CONFIG, LIMITS, 0)

    def images(step):
        return sorted(int(image) for each in step.micro_batches for image in each.images)

    assert [images(step) for step in random.steps] == [images(step) for step in usual.steps]
    assert max(len(each.images) for each in random.micro_batches) == BATCH
    padded = sum(each.computed_pixels for each in random.micro_batches)
    assert padded > 1.3 * sum(each.computed_pixels for each in usual.micro_batches)


def test_in_order_every_image_is_evaluated_once(sizes):
    """Evaluation in batches of the index's order misses none."""
    images = np.concatenate([each.images for each in plan_random_in_order(sizes, LIMITS).micro_batches])
    assert sorted(images) == list(range(60))


def test_the_naive_network_differs_by_padding_alone():
    """Without padding it is the exact network; with padding its answer changes."""
    torch.manual_seed(0)
    exact = Classifier(ModelConfig(backbone="test_resnet"), 4).eval()
    naive = NaiveClassifier(ModelConfig(backbone="test_resnet"), 4).eval()
    naive.load_state_dict(exact.state_dict())
    pixels = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    whole, part = torch.tensor([[96, 96]]), torch.tensor([[64, 70]])
    torch.testing.assert_close(naive(pixels, whole), exact(pixels, whole), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(naive(pixels, part), exact(pixels, part), rtol=1e-2)
