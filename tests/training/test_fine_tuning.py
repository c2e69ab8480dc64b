"""What fine-tuning adds to a run is part of its state: a run that is killed resumes bit for bit."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from unsquare.api import train
from unsquare.runs.checkpoints import UNAVERAGED, problem
from unsquare.training import checkpoint, loop

from .conftest import losses, write_noise

SETTINGS = {
    "backbone": "test_resnet",
    "pretrained": "none",
    "epochs": 3,
    "step_images": 4,
    "budget_pixels": 20_000,
    "precision": "32-true",
    "min_side": 33,
    "checkpoint_every_steps": 1,
    "workers": 1,
    "quiet": True,
    "freeze": "2",
    "thaw_after": 1,
    "ema": 0.9,
    "class_weights": "balanced",
    "focal": 1.5,
}
STEPS = 9


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it is run, neither saving nor tidying up."""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Noise of two classes, one of them rare."""
    return write_noise(tmp_path_factory.mktemp("source") / "pictures", {"train": (8, 4), "val": (2, 2)})


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory) -> Path:
    """A run that nothing stopped."""
    return train(source, tmp_path_factory.mktemp("finished") / "run", **SETTINGS)


def tensors(run: Path, name: str) -> dict[str, np.ndarray]:
    """The tensors in a file of a run's last checkpoint."""
    return {key: value.numpy() for key, value in load_file(run / "checkpoints" / f"step-{STEPS}" / name).items()}


def test_a_killed_run_goes_on_bit_for_bit(source, finished, tmp_path, monkeypatch) -> None:
    """Killed before the thaw and after it: losses, weights, their average and the optimizer's state are the same."""
    save, run = loop.save, tmp_path / "run"
    for last in (2, 5):

        def save_and_die(session, state, last=last):
            save(session, state)
            if state.step == last:
                raise Killed

        monkeypatch.setattr(loop, "save", save_and_die)
        with pytest.raises(Killed):
            train(source, run, **SETTINGS)
    monkeypatch.setattr(loop, "save", save)
    train(source, run, **SETTINGS)
    assert len(losses(run)) == STEPS
    assert losses(run) == losses(finished)
    names = [path.name for path in (finished / "checkpoints" / f"step-{STEPS}").glob("*.safetensors")]
    assert sorted(names) == ["model.safetensors", "optimizer.safetensors", "unaveraged.safetensors"]
    for name in names:
        ours, theirs = tensors(run, name), tensors(finished, name)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs), name


@pytest.mark.parametrize("has_links", [True, False])
def test_a_size_is_recorded_beside_both_sets_of_weights(finished, tmp_path, monkeypatch, has_links: bool) -> None:
    """The weights that training goes on from stay in the checkpoint, with their checksum, on file systems with and
    without links."""
    best = shutil.copytree(finished / "checkpoints" / "best", tmp_path / "best")
    if not has_links:
        monkeypatch.setattr(os, "link", lambda source, target: os.stat(tmp_path / "none"))
    before = json.loads((best / "manifest.json").read_text())["sha256"]
    checkpoint.set_size(best, 2_000)
    after = json.loads((best / "manifest.json").read_text())["sha256"]
    assert UNAVERAGED in after
    assert {name for name in before if before[name] != after[name]} == {"state.json"}
    assert not problem(best)
