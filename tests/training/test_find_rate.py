"""A learning-rate range test takes the steps of training, and leaves nothing but its page."""

from __future__ import annotations

import json
import tempfile

import pytest

from unsquare.api import find_lr
from unsquare.cli import main
from unsquare.errors import ConfigError
from unsquare.training import start
from unsquare.training.config import TrainConfig, to_toml, with_settings

from .conftest import losses

SETTINGS = {
    "backbone": "test_resnet",
    "pretrained": "none",
    "epochs": 1,
    "step_images": 4,
    "budget_pixels": 20_000,
    "precision": "32-true",
    "min_side": 33,
    "workers": 1,
    "dropout": 0.1,
}


def test_its_steps_are_those_of_training(make_folder, tmp_path, monkeypatch) -> None:
    """The first loss is that of training; at rates of nearly zero nothing is learned in either; nothing is left."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    source = make_folder(splits=("train", "val"), num_images=6)
    found = find_lr(source, out=tmp_path / "lr.html", lowest=1e-30, highest=1e-29, quiet=True, num_steps=12, **SETTINGS)
    settings = SETTINGS | {"epochs": 4, "lr": 1e-30}
    run = start.train(source, tmp_path / "run", with_settings(TrainConfig(), settings), quiet=True)
    assert list(found.losses) == losses(run)
    assert not list((tmp_path / "temporary").iterdir())
    assert "Learning-rate range test" in (tmp_path / "lr.html").read_text()


def test_the_command_says_what_to_train_with(make_folder, tmp_path, capsys) -> None:
    """As text and as JSON; the test ends where the loss diverges."""
    source, page = make_folder(splits=("train", "val"), num_images=6), tmp_path / "lr.html"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    words = ["find-lr", str(source), "--out", str(page), "--highest", "1e5", "--num-steps", "60", *flags]
    assert main([*words, "--optimizer", "sgd", "--lowest", "0.01", "--clip-norm", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["rates"]) == len(found["losses"]) < 60
    assert found["page"] == str(page)
    page.unlink()
    (tmp_path / "settings.toml").write_text(to_toml(with_settings(TrainConfig(), SETTINGS)))
    words = [
        "find-lr",
        str(source),
        "--out",
        str(page),
        "--config",
        str(tmp_path / "settings.toml"),
        "--num-steps",
        "10",
    ]
    assert main([*words, "--lowest", "1e-5", "--highest", "0.1"]) == 0
    said = capsys.readouterr().out
    assert f"The picture is {page}." in said
    assert page.is_file()


def test_rates_must_rise(make_folder) -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError, match=r"lowest must be below highest, but they are 1 and 0\.1; exchange them"):
        find_lr(make_folder(), lowest=1.0, highest=0.1)


def test_a_file_of_settings_that_is_not_there_is_named(make_folder, tmp_path, capsys) -> None:
    """As for training."""
    assert main(["find-lr", str(make_folder()), "--config", str(tmp_path / "none.toml")]) == 1
    assert f"The settings in {tmp_path / 'none.toml'} cannot be read" in capsys.readouterr().err
