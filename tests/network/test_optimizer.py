"""Optimizers that a run cannot use are refused by trying them; the others resume from a checkpoint exactly."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unsquare.errors import ConfigError
from unsquare.network.config import OptimizerConfig
from unsquare.network.optimizer import create_optimizer
from unsquare.training import checkpoint
from unsquare.training.optimizer_check import check_optimizer


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("adahessian", "does not require grad"),
        ("adafactorbv", "adafactorbv. cannot be used .*state of tensors and numbers"),
        ("sgdc", "positive max lr"),
        ("madgrad", "must be positive"),
        ("fusedadam", "APEX"),
        ("bnbadam8bit", "bitsandbytes"),
        ("adamw2", "There is no timm optimizer 'adamw2'; did you mean adamw"),
        ("x_adamw", "There is no timm optimizer"),
        ("nothing", "try adamw, sgd or lion"),
        ("", "try adamw, sgd or lion"),
    ],
)
def test_an_optimizer_that_cannot_train_a_run_is_refused(name, reason):
    """Second derivatives, states that cannot be kept, rates wanted beforehand, what is not installed, and typos."""
    with pytest.raises(ConfigError, match=reason) as caught:
        check_optimizer(OptimizerConfig(optimizer=name))
    assert "\n" not in str(caught.value)


def test_a_name_that_is_none_is_refused_where_the_optimizer_is_made():
    """A resumed run is not tried again, but an edited name still gives one sentence."""
    with pytest.raises(ConfigError, match="nothing not found"):
        create_optimizer(nn.Linear(2, 2), OptimizerConfig(optimizer="nothing"))


def test_trying_leaves_the_random_state_and_no_file(tmp_path, monkeypatch):
    """The check draws nothing from the run's random numbers and writes into a folder that is gone."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = torch.get_rng_state()
    check_optimizer(OptimizerConfig())
    assert torch.equal(torch.get_rng_state(), before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "muon", "lookahead_adamw", "AdamW", "adafactor"])
def test_an_optimizer_that_passes_goes_on_from_its_checkpoint_bit_for_bit(name, tmp_path):
    """Two more steps from what was saved are the two that would have followed."""
    config = OptimizerConfig(optimizer=name)
    check_optimizer(config)
    one, pixels = _network(), torch.rand(4, 3, 8, 8)
    optimizer = create_optimizer(one, config)
    _train(one, optimizer, pixels)
    state = checkpoint.TrainState(step=2, epoch=0, step_of_epoch=2, time_s=0.0)
    saved = checkpoint.save(tmp_path, "step-2", one, optimizer, state)
    other = _network()
    resumed = create_optimizer(other, config)
    checkpoint.load_model(saved, other)
    checkpoint.load_training(saved, resumed)
    before = [parameter.clone() for parameter in one.parameters()]
    _train(one, optimizer, pixels)
    _train(other, resumed, pixels)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), before))


def _network():
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 4))


def _train(network, optimizer, pixels):
    for _ in range(2):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        F.cross_entropy(network(pixels), torch.arange(4)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
