"""A checkpoint is whole or refused, and gives back exactly what was saved."""

import copy

import pytest
import torch

from unsquare.errors import RunError
from unsquare.training import checkpoint
from unsquare.training.checkpoint import TrainState

STATE = TrainState(step=7, epoch=1, step_of_epoch=2, time_s=3.5, best_score=0.25)


@pytest.fixture
def trained():
    """A small network with batch norm and an optimizer that has taken two steps."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1))
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(2):
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@pytest.mark.parametrize("name", ["lamb", "sgd", "adafactor"])
def test_any_optimizer_goes_on(trained, tmp_path, name):
    """Optimizers that keep counts in their groups, or no state at all, resume bit for bit too."""
    from unsquare.training.optimizer import optim

    model, _ = trained
    first = optim.create_optimizer_v2(model, name, lr=0.01)
    for _ in range(3):
        _step(model, first)
        first.zero_grad()
    path = checkpoint.save(tmp_path, "step-3", model, first, STATE)
    fresh = copy.deepcopy(model)
    second = optim.create_optimizer_v2(fresh, name, lr=0.01)
    checkpoint.load_model(path, fresh)
    checkpoint.load_training(path, second)
    for a, b in zip(_step(model, first), _step(fresh, second)):
        assert torch.equal(a, b)


def _step(model, optimizer):
    torch.manual_seed(1)
    model(torch.randn(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("fused", [False, True])
def test_a_loaded_checkpoint_goes_on_bit_for_bit(trained, tmp_path, fused):
    """The next step from a loaded checkpoint equals the next step of what was saved, channels-last weights included."""
    model, _ = trained
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    _step(model, optimizer)
    optimizer.zero_grad()
    path = checkpoint.save(tmp_path, "step-7", model, optimizer, STATE)
    fresh = copy.deepcopy(model)
    for parameter in fresh.parameters():
        torch.nn.init.zeros_(parameter)
    other = torch.optim.AdamW(fresh.parameters(), lr=0.01, fused=fused)
    checkpoint.load_model(path, fresh)
    assert checkpoint.load_training(path, other) == STATE
    for a, b in zip(_step(model, optimizer), _step(fresh, other)):
        assert torch.equal(a, b)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over(trained, tmp_path, file):
    """A flipped byte in any file makes `latest` take the one before, and loading it an error."""
    checkpoint.save(tmp_path, "step-7", *trained, STATE)
    newer = checkpoint.save(tmp_path, "step-9", *trained, STATE)
    content = bytearray((newer / file).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (newer / file).write_bytes(content)
    assert checkpoint.latest(tmp_path).name == "step-7"
    with pytest.raises(RunError, match="step-9"):
        checkpoint.load_model(newer, trained[0])


def test_a_half_written_checkpoint_does_not_count(trained, tmp_path):
    """What a crash leaves in the hidden folder is no checkpoint, and does not hinder the next."""
    (tmp_path / ".step-7.partial").mkdir()
    with pytest.raises(RunError, match="stopped before its first checkpoint"):
        checkpoint.latest(tmp_path)
    checkpoint.save(tmp_path, "step-7", *trained, STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["step-7"]


def test_only_the_latest_are_kept(trained, tmp_path):
    """Pruning keeps the latest two by number, not by name, and leaves the best alone."""
    for name in ("step-8", "step-9", "step-10", "best"):
        checkpoint.save(tmp_path, name, *trained, STATE)
    checkpoint.prune(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"step-9", "step-10", "best"}


def test_a_checkpoint_of_another_model_is_refused(trained, tmp_path):
    """Weights that do not fit say so in one sentence."""
    path = checkpoint.save(tmp_path, "step-1", *trained, STATE)
    with pytest.raises(RunError, match="does not fit the run's model"):
        checkpoint.load_model(path, torch.nn.Linear(2, 2))
