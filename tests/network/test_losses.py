"""The loss of each task against its formula, and predictions against the outputs that they come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unsquare.capacity.probes import train_probe
from unsquare.data.loader import PaddedBatch
from unsquare.execution.strategy import PLAIN
from unsquare.network.classifier import Classifier
from unsquare.network.config import DeviceConfig, ModelConfig, OptimizerConfig
from unsquare.network.device import launch
from unsquare.network.engine import Engine
from unsquare.network.losses import Objective
from unsquare.shapes import Shape

OBJECTIVES = {
    "classification": Objective(),
    "multilabel": Objective(task="multilabel"),
    "regression": Objective(task="regression", mean=1e9, std=25.0),
}


def some(task: str, rng: np.random.Generator, images: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and labels of a task."""
    outputs = torch.from_numpy(rng.normal(0, 3, (images, 1 if task == "regression" else 4))).float()
    labels = {
        "classification": rng.integers(0, 4, images),
        "multilabel": rng.integers(0, 2, (images, 4)).astype(np.float64),
        "regression": rng.normal(1e9, 25.0, (images, 1)),
    }[task]
    return outputs, torch.from_numpy(labels)


@pytest.mark.parametrize("task", OBJECTIVES)
def test_the_loss_of_predictions_is_that_of_outputs(task, rng):
    """What an evaluation computes from probabilities or values is what training computes from outputs."""
    objective = OBJECTIVES[task]
    outputs, labels = some(task, rng)
    trained = objective.losses(outputs, objective.encoded(labels))
    judged = objective.losses_of(objective.predictions(outputs), labels)
    torch.testing.assert_close(judged.float(), trained, rtol=1e-4, atol=1e-5)


def test_labels_have_binary_cross_entropy(rng):
    """The mean over the labels, by its definition, with smoothed labels."""
    outputs, labels = some("multilabel", rng)
    found = Objective(task="multilabel", label_smoothing=0.2).losses(outputs, labels.float())
    chance = 1 / (1 + np.exp(-outputs.double().numpy()))
    smooth = 0.8 * labels.numpy() + 0.1
    expected = -(smooth * np.log(chance) + (1 - smooth) * np.log(1 - chance)).mean(1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_values_have_smooth_l1_in_standard_deviations(rng):
    """Half the square below one deviation, linear above."""
    outputs, labels = some("regression", rng)
    objective = OBJECTIVES["regression"]
    off = np.abs(outputs.double().numpy() - (labels.numpy() - 1e9) / 25)[:, 0]
    expected = np.where(off < 1, off**2 / 2, off - 0.5)
    np.testing.assert_allclose(objective.losses(outputs, objective.encoded(labels)), expected, rtol=1e-4)
    np.testing.assert_allclose(objective.scores(outputs, objective.encoded(labels)), 25 * off, rtol=1e-4)


@pytest.mark.parametrize("task", OBJECTIVES)
def test_probes_have_labels_of_the_task(task, rng):
    """Memory is measured with steps of any task, whose loss is a number."""
    fabric = launch(DeviceConfig(accelerator="cpu", precision="32-true"))
    model = Classifier(ModelConfig(backbone="test_resnet"), some(task, rng)[0].shape[1])
    engine = Engine(fabric, model, OptimizerConfig(), OBJECTIVES[task])
    assert train_probe(engine, 2, Shape(48, 64), PLAIN) > 0
    labels = engine.objective.no_labels(2, model.head.out_features)
    assert labels.shape == some(task, rng, images=2)[1].shape


@pytest.mark.parametrize("task", OBJECTIVES)
def test_a_batch_learns_what_its_images_learn_alone(task, rng):
    """Loss, score and gradient of a padded micro-batch are those of its images one by one, in each task."""
    torch.manual_seed(0)
    fabric = launch(DeviceConfig(accelerator="cpu", precision="32-true"))
    outputs, labels = some(task, rng, images=3)
    model = Classifier(ModelConfig(backbone="test_resnet", norm="frozen"), outputs.shape[1])
    engine = Engine(fabric, model, OptimizerConfig(), OBJECTIVES[task])
    sizes = torch.tensor([[40, 64], [52, 36], [64, 48]])
    pixels = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    for at, (height, width) in enumerate(sizes.tolist()):
        pixels[at, :, :height, :width] = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    whole = engine.accumulate(PaddedBatch(pixels, sizes, labels, np.arange(3)), 1 / 3)
    together = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    engine.forget_gradients()
    alone = [
        engine.accumulate(
            PaddedBatch(pixels[[at], :, : sizes[at, 0], : sizes[at, 1]], sizes[[at]], labels[[at]], np.array([at])),
            1 / 3,
        )
        for at in range(3)
    ]
    np.testing.assert_allclose(whole, np.sum(alone, axis=0), rtol=1e-4)
    one_by_one = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for one, other in zip(together, one_by_one):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
