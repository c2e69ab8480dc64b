"""A checkpoint is whole or refused, and gives back exactly what was saved."""

import copy

import pytest
import torch

from unsquare.errors import RunError
from unsquare.runs.checkpoints import read_state
from unsquare.runs.schemas import Mark, Origin
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
    from unsquare.network.optimizer import optim

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


def test_what_a_run_is_trained_from_comes_back(trained, tmp_path):
    """A checkpoint holds its settings, bounds, source and sums, and how far the metrics had come."""
    origin = Origin(settings={"model": {"dropout": 0.5}}, bounds={"a": 1}, index_sha256="0" * 64, source="/pictures")
    mark = Mark(num_bytes=12, sha256="1" * 64)
    state = read_state(checkpoint.save(tmp_path, "step-7", *trained, STATE, origin, mark))
    assert (state.origin, state.metrics) == (origin, mark)


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
