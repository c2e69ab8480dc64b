"""Losses of images against their formulas and other implementations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from unsquare.errors import ConfigError
from unsquare.index.table import ShapeIndex, Task
from unsquare.index.targets import TaskConfig
from unsquare.index.text import strings
from unsquare.network.config import OptimizerConfig
from unsquare.network.losses import Objective
from unsquare.plan.config import PlanConfig
from unsquare.torchvision_guard import guard_torchvision
from unsquare.training.config import TrainConfig

LOGITS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
LABELS = torch.arange(12) % 4


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_is_its_formula(gamma: float, smoothing: float) -> None:
    """(1 - p)^gamma of the own class, times the cross-entropy, class by class in plain numbers."""
    found = Objective(focal=gamma, label_smoothing=smoothing).losses(LOGITS, LABELS)
    for row, label, value in zip(LOGITS.tolist(), LABELS.tolist(), found.tolist()):
        total = sum(map(math.exp, row))
        chances = [math.exp(each) / total for each in row]
        truth = [(1 - smoothing) * (number == label) + smoothing / len(row) for number in range(len(row))]
        entropy = -sum(part * math.log(chance) for part, chance in zip(truth, chances))
        assert value == pytest.approx((1 - chances[label]) ** gamma * entropy, rel=1e-9)


def test_of_two_classes_it_is_torchvisions() -> None:
    """The sigmoid of a logit is the softmax of it and zero."""
    guard_torchvision()
    from torchvision.ops import sigmoid_focal_loss

    one, targets = LOGITS[:, 0], LABELS % 2
    ours = Objective(focal=2.0).losses(torch.stack([torch.zeros_like(one), one], 1), targets)
    torch.testing.assert_close(ours, sigmoid_focal_loss(one, targets.double(), alpha=-1, gamma=2.0))


def test_weights_are_those_of_torch() -> None:
    """Without label smoothing; with it, an image is weighted by its own class alone."""
    weights = (0.5, 1.0, 2.0, 4.0)
    ours = Objective(weights=weights).losses(LOGITS, LABELS)
    theirs = F.cross_entropy(LOGITS, LABELS, weight=torch.tensor(weights, dtype=torch.float64), reduction="none")
    torch.testing.assert_close(ours, theirs)
    smooth = Objective(weights=weights, label_smoothing=0.2).losses(LOGITS, LABELS)
    plain = Objective(label_smoothing=0.2).losses(LOGITS, LABELS)
    torch.testing.assert_close(smooth / plain, torch.tensor(weights, dtype=torch.float64)[LABELS])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_balanced_classes_weigh_the_same_and_an_image_1_on_average(labels: list[int]) -> None:
    """Whatever their numbers; a class without images has any weight."""
    number = len(labels) + 7  # the val split has one of each class, which changes nothing
    index = ShapeIndex(
        root=".",
        classes=tuple("abcdefg"),
        keys=strings([f"{row}.png" for row in range(number)]),
        sizes=np.full((number, 2), 40, dtype=np.int64),
        labels=np.array([*labels, *range(7)], dtype=np.int32),
        splits=strings(["train"] * len(labels) + ["val"] * 7),
        num_bytes=np.zeros(number, dtype=np.int64),
        modified_ns=np.zeros(number, dtype=np.int64),
    )
    loss = Objective.of(index, OptimizerConfig(class_weights="balanced"))
    assert loss.weights is not None
    assert len(loss.weights) == 7
    assert np.mean([loss.weights[label] for label in labels]) == pytest.approx(1)
    totals = [loss.weights[label] * labels.count(label) for label in set(labels)]
    assert totals == pytest.approx([totals[0]] * len(totals))


@pytest.mark.parametrize("gamma", [0.3, 1.0, 5.0])
def test_gradients_are_finite_however_sure_the_network_is(gamma: float) -> None:
    """Of images that are surely right and surely wrong."""
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4], [50.0, 0.0], [0.0, 0.0]], requires_grad=True)
    Objective(focal=gamma).losses(logits, torch.zeros(4, dtype=torch.int64)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_of_labels_it_is_torchvisions() -> None:
    """Each label is a question of its own; mixed pictures have a loss for each of two sets of labels."""
    guard_torchvision()
    from torchvision.ops import sigmoid_focal_loss

    targets = (LOGITS.flip(0) > 0).double()
    theirs = sigmoid_focal_loss(LOGITS, targets, alpha=-1, gamma=1.5).mean(1)
    torch.testing.assert_close(Objective(task="multilabel", focal=1.5).losses(LOGITS, targets), theirs)


@pytest.mark.parametrize(
    ("task", "settings", "words"),
    [
        ("multilabel", {"class_weights": "balanced"}, "the task multilabel has none; leave --class-weights out"),
        ("regression", {"class_weights": "balanced"}, "the task regression has none; leave --class-weights out"),
        ("regression", {"focal": 2.0}, "the task regression classifies nothing; leave --focal out"),
    ],
)
def test_what_needs_classes_is_refused_without(task: Task, settings: dict[str, Any], words: str) -> None:
    """Instead of training without it."""
    with pytest.raises(ConfigError, match=words):
        TrainConfig(task=TaskConfig(task=task), optimizer=OptimizerConfig(**settings))


def test_rare_classes_are_not_made_up_for_twice() -> None:
    """Drawn as often as others and weighted, they would weigh more than these."""
    with pytest.raises(
        ConfigError, match="sampling and class_weights both make up for rare classes; let one of them be"
    ):
        TrainConfig(plan=PlanConfig(sampling="balanced"), optimizer=OptimizerConfig(class_weights="balanced"))
