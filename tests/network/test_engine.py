"""The arithmetic of a step on one rank."""

from __future__ import annotations

import pytest
import torch

from unsquare.capacity.limits import identity_of
from unsquare.capacity.probes import synthetic_batch, train_probe, weights_restored
from unsquare.execution.strategy import PLAIN
from unsquare.network.classifier import Classifier
from unsquare.network.config import DeviceConfig, ModelConfig, OptimizerConfig
from unsquare.network.device import launch
from unsquare.network.engine import Engine
from unsquare.shapes import Shape


def _engine(**settings: object) -> Engine:
    torch.manual_seed(0)
    model = Classifier(ModelConfig(backbone="test_resnet"), 3)
    fabric = launch(DeviceConfig(accelerator="cpu", precision="32-true"))
    return Engine(fabric, model, OptimizerConfig(**settings))  # type: ignore[arg-type]


def _copy(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_average_is_that_of_the_weights_after_each_step(decay: float) -> None:
    """Computed again from the weights, running statistics included; prediction uses it, and training does not."""
    engine, batch = _engine(ema=decay), synthetic_batch(2, Shape(64, 64))
    expected: dict[str, torch.Tensor] = {}
    for step in range(1, 5):
        engine.accumulate(batch, 0.5)
        engine.update(1e-2, step)
        kept = min(decay, 1 - step ** (-2 / 3))
        for name, value in _copy(engine.model).items():
            if value.is_floating_point():
                expected[name] = value if step == 1 else kept * expected[name] + (1 - kept) * value
    averaged = engine.evaluated.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(averaged[name], value)
    assert not torch.equal(averaged["head.weight"], engine.model.head.weight)
    with torch.inference_mode():
        logits = engine.evaluated.eval()(batch.pixels, batch.sizes)
    torch.testing.assert_close(engine.predict(batch), logits.double().softmax(1))


def test_the_average_of_equal_settings_changes_no_weight() -> None:
    """Training with an average gives the weights of training without one, bit for bit."""
    batch, found = synthetic_batch(2, Shape(64, 64)), []
    for settings in ({}, {"ema": 0.9}):
        engine = _engine(**settings)
        for step in (1, 2):
            engine.accumulate(batch, 0.5)
            engine.update(1e-2, step)
        found.append(_copy(engine.model))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_probes_leave_no_trace_in_the_average() -> None:
    """After probes it is the network itself again, as before the first step."""
    engine = _engine(ema=0.9)
    with weights_restored(engine):
        train_probe(engine, 1, Shape(64, 64), PLAIN)
        train_probe(engine, 1, Shape(64, 80), PLAIN)
    before = _copy(engine.model)
    assert all(torch.equal(value, before[name]) for name, value in engine.evaluated.state_dict().items())


def test_measurements_of_one_network_are_not_taken_for_another() -> None:
    """What is frozen throughout takes less memory, an average takes more; a thaw makes it as if nothing were frozen."""

    def identity(**settings: object) -> dict[str, object]:
        return identity_of(ModelConfig(), 3, OptimizerConfig(**settings))  # type: ignore[arg-type]

    assert identity(freeze="backbone") != identity()
    assert identity(freeze="backbone", thaw_after=1) == identity(freeze="none") == identity()
    assert identity(ema=0.9) != identity()
