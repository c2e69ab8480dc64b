"""What a recipe settles: a pure function of the settings, the weights at hand and the pictures' sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unsquare.errors import ConfigError
from unsquare.network.pretrained import FoundWeights
from unsquare.training import recipes
from unsquare.training.config import TrainConfig, from_toml, to_toml, with_settings
from unsquare.training.recipes import as_settled, settled, settled_network

SIZES = np.full((8, 2), 450, dtype=np.int64)


@pytest.fixture
def at_hand(monkeypatch: pytest.MonkeyPatch):
    """A function that says where weights are."""

    def say(where: str) -> None:
        monkeypatch.setattr(recipes, "find_weights", lambda name, asked="auto": FoundWeights(where, "no reason"))

    monkeypatch.setattr(recipes, "packaged_file", Path)
    return say


def _settled(**settings: object) -> tuple[TrainConfig, list[str]]:
    said: list[str] = []
    config = settled_network(with_settings(TrainConfig(), settings), said.append)
    return settled(config, SIZES), said


@pytest.mark.parametrize("where", ["hub", "package", "none"])
def test_nothing_is_left_open(at_hand, where: str) -> None:
    """Settled settings have no auto of a recipe and no None of one; written and read, they are the same; settling them
    again changes and says nothing."""
    at_hand(where)
    config, said = _settled()
    assert len(said) == 1
    assert from_toml(to_toml(config), "file") == config
    assert as_settled(TrainConfig(), config) == replace(config, device=TrainConfig().device)
    again: list[str] = []
    assert settled(settled_network(config, again.append), SIZES) == config
    assert not again
    assert config.model.pretrained == where
    assert config.optimizer.recipe == ("scratch" if where == "none" else "finetune")


def test_what_is_given_stays(at_hand) -> None:
    """A recipe fills in only what is left out."""
    at_hand("package")
    config, _ = _settled(backbone="resnet50", norm="own", epochs=3, lr=0.1, progressive="off", label_smoothing=0.0)
    assert (config.model.backbone, config.model.norm, config.epochs) == ("resnet50", "own", 3)
    assert (config.learning_rate.lr, config.resolution.progressive) == (0.1, "off")
    assert config.optimizer.label_smoothing == 0.0


def test_pictures_grow_through_stages_of_ones_own(at_hand) -> None:
    """And where random scales would blur what a smaller size says; otherwise only while that is better."""
    at_hand("package")
    assert _settled()[0].resolution.grow == "while-better"
    assert _settled(grow="always")[0].resolution.grow == "always"
    for settings in ({"progressive": "50kP:1,full:1"}, {"min_scale": 0.8}, {"pretrained": "none"}, {"folds": 3}):
        assert _settled(**settings)[0].resolution.grow == "always"


def test_scratch_looks_for_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither with the recipe, nor with pretrained none; a file of weights is fine-tuned."""

    def look(*args: object) -> None:
        raise AssertionError("looked for weights")

    monkeypatch.setattr(recipes, "find_weights", look)
    assert _settled(recipe="scratch")[0].model.pretrained == "none"
    assert _settled(pretrained="none")[0].optimizer.recipe == "scratch"
    assert _settled(weights="some.safetensors")[0].optimizer.recipe == "finetune"


def test_weights_that_are_needed_are_missed(at_hand) -> None:
    """A recipe or a setting that asks for weights is refused without them; auto trains from scratch, and says why."""
    at_hand("none")
    ways = {
        "connect to the hub, install unsquare": {"recipe": "finetune"},
        "connect to the hub, or give a file": {"recipe": "finetune", "backbone": "resnet18"},
        "connect to the hub, leave --pretrained out, which takes": {"pretrained": "hub"},
        "leave --pretrained out, or give a file": {"pretrained": "package", "backbone": "resnet18"},
    }
    for way, settings in ways.items():
        with pytest.raises(ConfigError, match=f"There are no pretrained weights of .* at hand: no reason; {way}"):
            _settled(**settings)
    with pytest.raises(ConfigError, match="The recipe probe trains pretrained weights, but pretrained is none"):
        _settled(recipe="probe", pretrained="none")
    with pytest.raises(ConfigError, match="The recipe finetune trains pretrained weights, but pretrained is none"):
        _settled(recipe="finetune", pretrained="none", backbone="resnet18", norm="frozen", pool="avg")
    with pytest.raises(ConfigError, match="The recipe scratch trains random weights, but weights were given"):
        _settled(recipe="scratch", pretrained="package")
    [words] = _settled()[1]
    assert words.startswith("Training from scratch, which needs many more pictures and epochs: no reason; ")


def test_layers_that_would_never_thaw_are_refused(at_hand) -> None:
    """Epochs are the recipe's where they are left out."""
    at_hand("package")
    assert _settled(freeze="backbone", thaw_after=19)[0].epochs == 20
    with pytest.raises(ConfigError, match="thaw_after must be less than the epochs, but is 2 of 2"):
        _settled(freeze="backbone", thaw_after=2, epochs=2)


def test_a_run_keeps_what_was_settled(at_hand) -> None:
    """The same command finds the run's settings, whatever weights are at hand by then; what is given still counts."""
    at_hand("package")
    own, _ = _settled(epochs=4)
    at_hand("none")
    assert as_settled(with_settings(TrainConfig(), {"epochs": 4}), own) == own
    assert as_settled(with_settings(TrainConfig(), {"epochs": 4, "lr": 1.0}), own).learning_rate.lr == 1.0
    other = as_settled(with_settings(TrainConfig(), {"weights": "other.safetensors"}), own)
    assert (other.model.pretrained, other.model.weights.name) == ("none", "other.safetensors")


def test_only_pictures_above_the_weights_own_size_have_stages(at_hand) -> None:
    """Progressive resolution starts at the size that the weights know, and is off near the pictures' own."""
    at_hand("package")
    config = settled_network(TrainConfig(), lambda text: None)
    assert settled(config, np.full((8, 2), 300)).resolution.progressive == "off"
    first, *_, last = settled(config, np.full((8, 2), 4000)).resolution.stages
    assert first[0] == 224 * 224
    assert last[0] is None
