"""Freezing stages, and learning rates by stage."""

from __future__ import annotations

import pytest
import torch

from unsquare.capacity.probes import synthetic_batch
from unsquare.errors import ConfigError
from unsquare.network.classifier import Classifier
from unsquare.network.config import DeviceConfig, ModelConfig, OptimizerConfig
from unsquare.network.device import launch
from unsquare.network.engine import Engine
from unsquare.network.optimizer import create_optimizer, parameter_groups
from unsquare.network.stages import stages_of
from unsquare.shapes import Shape


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


def test_a_thaw_is_prepared_from_the_start() -> None:
    """Memory is measured, and the optimizer made, with all that trains after the thaw; before it, nothing frozen moves
    or has a state in the optimizer."""
    config = OptimizerConfig(freeze="2", thaw_after=2, epochs=4)
    engine = Engine(launch(DeviceConfig(accelerator="cpu", precision="32-true")), _classifier(), config)
    parameters = list(engine.model.parameters())
    assert all(parameter.requires_grad for parameter in parameters)
    assert {each for group in engine.optimizer.param_groups for each in group["params"]} == set(parameters)
    stages = stages_of(engine.model.backbone)
    frozen = {each for name, each in engine.model.backbone.named_parameters() if stages[name] <= 2}
    batch = synthetic_batch(2, Shape(64, 64))
    for epoch in range(4):
        engine.start_epoch(epoch)
        before = {each: each.detach().clone() for each in parameters}
        engine.accumulate(batch, 0.5)
        engine.update(1e-3)
        for each, value in before.items():
            assert torch.equal(each, value) == (each in frozen and epoch < 2)
            assert (each in engine.optimizer.state) == (each not in frozen or epoch >= 2)


def test_a_thaw_needs_something_frozen() -> None:
    """Otherwise the setting is refused."""
    with pytest.raises(ConfigError, match="thaw_after ends what freeze begins, but freeze is none; give backbone or"):
        OptimizerConfig(freeze="none", thaw_after=1)


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


def test_a_stage_that_features_do_not_use_does_not_count() -> None:
    """The head's convolution of a MobileNet comes after the features: blocks before it learn fastest, and something of
    them stays to train."""
    model = _classifier("mobilenetv3_small_050")
    assert model.unused == {"conv_head.weight", "conv_head.bias"}
    used = [group for group in parameter_groups(model, OptimizerConfig(layer_decay=0.5)) if group["lr_scale"] < 1]
    scales = {id(parameter): group["lr_scale"] for group in used for parameter in group["params"]}
    assert max(scales.values()) == 0.5
    last = [name for name, stage in stages_of(model.backbone).items() if stage == max(_used_stages(model))]
    assert not any(id(model.backbone.get_parameter(name)) in scales for name in last)
    with pytest.raises(ConfigError, match="freeze must leave a stage to train, but is 6 and the backbone has 6"):
        model.freeze("6")
    assert not Classifier(ModelConfig(backbone="test_resnet"), 3).unused


def _used_stages(model: Classifier) -> set[int]:
    return {stage for name, stage in stages_of(model.backbone).items() if name not in model.unused}
