"""Freezing stages, and learning rates by stage."""

from __future__ import annotations

import pytest
import torch

from unsquare.errors import ConfigError
from unsquare.network.classifier import Classifier
from unsquare.network.config import ModelConfig, OptimizerConfig
from unsquare.network.optimizer import create_optimizer, parameter_groups
from unsquare.network.stages import stages_of


def _classifier(backbone: str = "test_resnet") -> Classifier:
    torch.manual_seed(0)
    model = Classifier(ModelConfig(backbone=backbone), 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01  # a branch whose last norm is zero would get no gradient
    return model


def _step(model: Classifier, config: OptimizerConfig) -> dict[str, torch.Tensor]:
    """How far each tensor of the state moves in a step of training."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = create_optimizer(model, config)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * group.get("lr_scale", 1.0)
    pixels = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    model.train()
    model(pixels, torch.tensor([[64, 64]] * 4)).square().sum().backward()
    optimizer.step()
    return {name: (value - before[name]).abs().max() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("what", ["backbone", "2", "0", "none"])
def test_what_is_frozen_does_not_change(what: str) -> None:
    """Neither weights nor running statistics of frozen stages change; those of all others do."""
    model = _classifier()
    model.freeze(what)
    stages = stages_of(model.backbone)
    moved = _step(model, OptimizerConfig(weight_decay=0.1, head_lr_factor=2.0))
    last = {"backbone": 99, "none": -1}.get(what, int(what) if what.isdecimal() else 0)
    for name, stage in stages.items():
        assert (moved[f"backbone.{name}"] > 0) == (stage > last), name
    assert moved["head.weight"] > 0
    first = next(name for name in moved if name.endswith("running_mean"))
    assert (moved[first] > 0) == (last < 0)


def test_freezing_can_be_undone() -> None:
    """Thawed stages train again, in training mode."""
    model = _classifier()
    model.freeze("backbone")
    assert not model.train().backbone.training
    model.freeze("none")
    assert model.train().backbone.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_number_of_stages_that_leaves_nothing_is_refused() -> None:
    """The backbone's last stage trains, unless the whole of it is frozen by name."""
    with pytest.raises(ConfigError, match="freeze must leave a stage to train, but is 4 and the backbone has 4"):
        _classifier().freeze("4")
    with pytest.raises(ConfigError, match="freeze must be none, backbone or a number of stages, but is 'all'"):
        OptimizerConfig(freeze="all")


def test_learning_rates_fall_from_stage_to_stage() -> None:
    """The last stage has the full rate, each before it the factor more; the head has its own; each parameter is in one
    group, biases and norms without weight decay."""
    model = _classifier("convnext_atto")
    config = OptimizerConfig(layer_decay=0.5, head_lr_factor=10.0, weight_decay=0.1)
    groups = parameter_groups(model, config)
    scale = {parameter: group["lr_scale"] for group in groups for parameter in group["params"]}
    decay = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert set(scale) == set(model.parameters())
    assert sum(len(group["params"]) for group in groups) == len(scale)
    stages = stages_of(model.backbone)
    last = max(stages.values())
    for name, parameter in model.backbone.named_parameters():
        assert scale[parameter] == 0.5 ** (last - stages[name])
        assert decay[parameter] == (0.0 if parameter.ndim == 1 else 0.1)
    assert scale[model.head.weight] == 10.0


def test_equal_rates_keep_timms_own_groups() -> None:
    """So that runs of earlier releases find their optimizer's state by number."""
    model = _classifier()
    groups = create_optimizer(model, OptimizerConfig(head_lr_factor=1.0)).param_groups
    assert len(groups) == 2
    assert all("lr_scale" not in group or group["lr_scale"] == 1.0 for group in groups)
