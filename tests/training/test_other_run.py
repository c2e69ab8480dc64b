"""A run that starts from another: network, weights, and the head where the classes are the same."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from unsquare.api import cross_validate, evaluate, predict, train
from unsquare.errors import ConfigError, RunError
from unsquare.network.classifier import Classifier
from unsquare.network.config import ModelConfig
from unsquare.runs.folder import RunFolder
from unsquare.runs.tables import read_index
from unsquare.training.config import from_toml
from unsquare.training.other_run import network_of_run, settings_of_run, take_head, trained_before

SETTINGS = {"epochs": 1, "budget_pixels": 40_000, "min_side": 33, "precision": "32-true", "workers": 1, "quiet": True}


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """A trained run of two classes, with group norms and a pyramid of its own."""
    folder = tmp_path_factory.mktemp("other")
    for label, color in (("cat", "gray"), ("dog", "brown")):
        (folder / "pictures" / label).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (40 + number, 50), color).save(folder / "pictures" / label / f"{number}.png")
    settings = {"backbone": "test_resnet", "norm": "group", "pool": "spp", "pyramid": (1, 2), "pretrained": "none"}
    return train(folder / "pictures", folder / "run", **SETTINGS, **settings)


def _best(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "best" / "model.safetensors")


def test_backbone_pool_and_norms_are_those_of_the_run(other: Path) -> None:
    """Unless they are given; the levels of a pyramid stay with their pool."""
    taken = network_of_run(ModelConfig(from_run=other))
    assert (taken.backbone, taken.norm, taken.pool, taken.pyramid) == ("test_resnet", "group", "spp", (1, 2))
    taken = network_of_run(ModelConfig(from_run=other, norm="frozen", pool="avg", pyramid=(3,)))
    assert (taken.backbone, taken.norm, taken.pool, taken.pyramid) == ("test_resnet", "frozen", "avg", (3,))


def test_a_run_begins_with_the_weights_of_another(other: Path, tmp_path: Path, make_folder) -> None:
    """With other classes: at a learning rate of nearly 0 its backbone stays that of the other run, and the same command
    resumes it."""
    settings = SETTINGS | {"from_run": other, "lr": 1e-30, "weight_decay": 0.0}
    run = train(make_folder(("cat", "dog", "fox")), tmp_path / "run", **settings)
    before, after = _best(other), _best(run)
    assert after["head.weight"].shape[0] == 3
    for name in before:
        if name.startswith("backbone."):
            torch.testing.assert_close(after[name], before[name])
    config = from_toml((run / "config.toml").read_text(), "config.toml")
    assert config.optimizer.recipe == "finetune"
    assert (config.model.pretrained, config.model.norm, config.model.pyramid) == ("none", "group", (1, 2))
    shutil.move(other, tmp_path / "moved")  # a resume needs no starting weights
    try:
        assert train(tmp_path / "pictures", run, **(settings | {"epochs": 2})) == run
    finally:
        shutil.move(tmp_path / "moved", other)


def test_the_head_moves_with_its_classes(other: Path) -> None:
    """The same classes in another order: each logit is the one that the class had; with others, the head stays new."""
    theirs = _best(other)
    config = network_of_run(ModelConfig(from_run=other))
    model = Classifier(config, 2)
    said: list[str] = []
    own = read_index(RunFolder(other).index)
    turned = replace(own, classes=("dog", "cat"))
    take_head(model, config, turned, said.append)
    assert torch.equal(model.head.weight, theirs["head.weight"][[1, 0]])
    assert torch.equal(model.norm.weight, theirs["norm.weight"])
    fresh = model.head.weight.clone()
    take_head(model, config, replace(own, classes=("dog", "fox")), said.append)
    targets = np.zeros((len(own), 2))
    take_head(model, config, replace(own, task="multilabel", targets=targets), said.append)
    for pool in ({"pool": "avg"}, {"pyramid": (2, 1)}, {"pyramid_mode": "mean"}):
        changed = replace(config, **pool)
        take_head(Classifier(changed, 2), changed, turned, said.append)
    assert torch.equal(model.head.weight, fresh)
    assert [words.removeprefix(f"Starting from the weights of {other}") for words in said] == [
        ", its head included.",
        " with a new head: its classes are others.",
        " with a new head: its task is classification.",
        *[" with a new head: its pool is another."] * 3,
    ]


def test_a_number_keeps_its_unit(tmp_path: Path, rng) -> None:
    """Pictures of other numbers have another mean and deviation; the head answers the same numbers as before."""
    lines = ["path,label"]
    for number in range(8):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{number}")
    (tmp_path / "all.csv").write_text("\n".join(lines))
    (tmp_path / "high.csv").write_text("\n".join([lines[0], *lines[-3:]]))
    shared = SETTINGS | {"task": "regression", "validation_fraction": 0.0}
    network = {"backbone": "test_resnet", "pretrained": "none", "norm": "group"}
    first = train(tmp_path / "all.csv", tmp_path / "first", **shared, **network)
    second = train(tmp_path / "high.csv", tmp_path / "second", **shared, from_run=first, lr=1e-30, weight_decay=0.0)
    before, after = (predict(run, tmp_path / "0.png", quiet=True)[0].value for run in (first, second))
    assert after == pytest.approx(before, abs=1e-3)


def test_pictures_that_trained_the_other_run_are_known(other: Path, tmp_path: Path) -> None:
    """By path, and by name, length and shape where the folder has moved; folds of them are refused."""
    own = read_index(RunFolder(other).index)
    trained = own.splits == "train"
    assert trained_before(own, other).tolist() == trained.tolist()
    assert trained_before(replace(own, root=str(tmp_path)), other).tolist() == trained.tolist()
    assert not trained_before(own, None).any()
    assert not trained_before(own, tmp_path / "gone").any()
    with pytest.raises(ConfigError, match=r"was trained on .* that judge this fold, so its figures would"):
        cross_validate(other.parent / "pictures", tmp_path / "folds", folds=2, from_run=other, **SETTINGS)


def test_figures_on_pictures_that_trained_the_other_run_are_doubted(other: Path, tmp_path: Path) -> None:
    """Another split of the same pictures: the plan, the report and an evaluation say so."""
    names = sorted(path.relative_to(other.parent / "pictures") for path in (other.parent / "pictures").glob("*/*.png"))
    rows = [f"{name},{name.parent},{'val' if at % 2 else 'train'}" for at, name in enumerate(names)]
    manifest = other.parent / "pictures" / "halves.csv"
    manifest.write_text("\n".join(["path,label,split", *rows]))
    run = train(manifest, tmp_path / "run", from_run=other, **SETTINGS)
    assert "that judge this run, so its figures say little" in (run / "plan.json").read_text()
    assert "that judge this run, so its figures say little" in (run / "report.html").read_text()
    words = evaluate(run, manifest, split="val", quiet=True).caution
    assert words.startswith("The run started from weights that were trained on")


@pytest.mark.parametrize("norm", ["own", "frozen", "group"])
def test_weights_fit_whatever_norms_take_their_place(tmp_path: Path, norm: str) -> None:
    """A file with the statistics of batch norms serves networks with and without them."""
    from safetensors.torch import save_file

    stock = Classifier(ModelConfig(backbone="test_resnet"), 2)
    save_file({name: value.contiguous() for name, value in stock.state_dict().items()}, tmp_path / "x.safetensors")
    model = Classifier(ModelConfig(backbone="test_resnet", weights=tmp_path / "x.safetensors", norm=norm), 2)
    wanted = stock.backbone.state_dict()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, wanted[name]), name


def test_a_run_that_cannot_be_used_is_named(other: Path, tmp_path: Path) -> None:
    """No such run, one without a checkpoint, one of another network, and two places to start from."""
    with pytest.raises(RunError, match="is not a run folder, since it has no config"):
        network_of_run(ModelConfig(from_run=tmp_path / "none"))
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(other / "config.toml", empty)
    with pytest.raises(RunError, match="The run stopped before its first checkpoint"):
        Classifier(network_of_run(ModelConfig(from_run=empty)), 2)
    with pytest.raises(ConfigError, match=r"do not fit the backbone resnet18: '[\w.]+' has the shape \("):
        Classifier(network_of_run(ModelConfig(from_run=other, backbone="resnet18")), 2)
    with pytest.raises(ConfigError, match="weights and from_run exclude each other"):
        ModelConfig(from_run=other, weights=tmp_path / "x.safetensors")
    assert settings_of_run(RunFolder.open(other)).model.backbone == "test_resnet"
