"""Runs whose pictures a function of the user's own changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from unsquare.api import resume, train
from unsquare.cli import main
from unsquare.errors import ConfigError, RunError
from unsquare.toml import tomllib

from .conftest import losses

SETTINGS = {
    "backbone": "test_resnet",
    "epochs": 1,
    "step_images": 8,
    "budget_pixels": 40_000,
    "precision": "32-true",
    "min_side": 33,
    "workers": 2,
}
MODULE = """
def darker(image, rng):
    return image - image // int(rng.integers(2, 5))

def cropping(image, rng):
    return image[:-1]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of one's own in the current folder."""
    (tmp_path / "own_changes.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_changes", raising=False)
    return "own_changes"


def test_a_run_goes_on_with_its_own_transform_alone(pictures, own, tmp_path) -> None:
    """The function itself gives the losses of its name, which the settings have; a resume needs the same."""
    named, given = tmp_path / "named", tmp_path / "given"
    train(pictures, named, quiet=True, transform=f"{own}:darker", **SETTINGS)
    from own_changes import darker

    train(pictures, given, quiet=True, transform=darker, **SETTINGS)
    assert losses(given) == losses(named)
    assert tomllib.loads((given / "config.toml").read_text())["augment"]["transform"] == "own_changes:darker"
    for changes, now in (({"transform": f"{own}:cropping"}, "'own_changes:cropping'"), ({}, "not set")):
        with pytest.raises(RunError, match=rf"augment\.transform was 'own_changes:darker' and is {now}"):
            train(pictures, given, quiet=True, **SETTINGS, **changes)
    resume(given, epochs=2, quiet=True)
    assert len(losses(given)) == 2 * len(losses(named))


def test_a_transform_that_does_not_exist_leaves_no_folder(pictures, own, tmp_path) -> None:
    """It is looked for before anything else."""
    with pytest.raises(ConfigError, match=r"but own_changes:lighter cannot be imported \(AttributeError: module"):
        train(pictures, tmp_path / "run", quiet=True, transform=f"{own}:lighter", **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_a_transform_that_changes_the_shape_is_one_sentence(pictures, own, tmp_path, capsys) -> None:
    """On the command line, too, with the picture's name and without a traceback."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    words = ["train", str(pictures), "--out", str(tmp_path / "run"), "--transform", f"{own}:cropping", *flags]
    assert main(words) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "but own_changes:cropping returned (" in said
    assert "for 'train/" in said
    assert "Traceback" not in said
