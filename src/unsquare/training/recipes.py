"""Recipes: the values of settings that are left out, by how a network is trained.

A run is settled in two parts. What the network is, and where its weights come from, is settled before any picture is
read; the rest follows from the pictures. The settled values are written to the run's `config.toml`, so that a resume,
or another run with that file, is the same. Each value rests on a measurement in docs/experiments.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from math import sqrt
from typing import Any

import numpy as np

from unsquare.errors import ConfigError
from unsquare.network.config import ModelConfig, RecipeName
from unsquare.network.pretrained import find_weights, pretrained_pixels
from unsquare.progress import Say
from unsquare.shapes import Sizes
from unsquare.training.config import TrainConfig
from unsquare.training.other_run import as_network, network_of_run

RecipeValues = Mapping[str, Mapping[str, Any]]
"""Settings by table and name."""

PRETRAINED_BACKBONE = "tf_efficientnet_lite0"
"""Small enough for two cores; with frozen norms it can be tiled; its weights are on the hub and in a package."""
SCRATCH_BACKBONE = "resnet18"

_NETWORKS: dict[str, dict[str, Any]] = {
    "finetune": {"backbone": PRETRAINED_BACKBONE, "norm": "frozen", "pool": "avg"},
    "probe": {"backbone": PRETRAINED_BACKBONE, "norm": "frozen", "pool": "avg"},
    "scratch": {"backbone": SCRATCH_BACKBONE, "norm": "own", "pool": "spp"},
}
_TRAINING: dict[str, RecipeValues] = {
    "finetune": {
        "optimizer": {"epochs": 8, "label_smoothing": 0.1, "freeze": "none", "head_lr_factor": 1.0},
        "learning_rate": {"lr": 5e-4},
    },
    "probe": {
        "optimizer": {"epochs": 8, "label_smoothing": 0.1, "freeze": "backbone", "head_lr_factor": 1.0},
        "learning_rate": {"lr": 2e-3},
    },
    "scratch": {
        "optimizer": {"epochs": 30, "label_smoothing": 0.0, "freeze": "none", "head_lr_factor": 1.0},
        "learning_rate": {"lr": 2e-3},
    },
}
OPEN = (None, "auto")
"""What stands for a setting that is left to the recipe."""


def settled_network(config: TrainConfig, say: Say) -> TrainConfig:
    """The settings with recipe, network and weights settled, in which nothing depends on the pictures.

    Args:
        config: the settings.
        say: told where the weights come from.

    Raises:
        ConfigError: a recipe needs weights, and there are none.
    """
    model, recipe = network_of_run(config.model), config.optimizer.recipe
    if recipe != "auto" and not any(getattr(model, name) in OPEN for name in ("pretrained", *_NETWORKS[recipe])):
        return config
    if recipe == "scratch" and model.has_weights:
        raise ConfigError("The recipe scratch trains random weights, but weights were given; take finetune, or auto.")
    if not (model.weights or model.from_run or model.pretrained == "none" or recipe == "scratch"):
        model = _with_weights(model, recipe, say)
    recipe = recipe if recipe != "auto" else "finetune" if model.has_weights else "scratch"
    if recipe != "scratch" and not model.has_weights:
        raise ConfigError(f"The recipe {recipe} trains pretrained weights, but pretrained is none; give --weights.")
    model = replace(model, pretrained="none" if model.pretrained == "auto" else model.pretrained)
    values = {"model": _NETWORKS[recipe], "optimizer": {"recipe": recipe}}
    return filled(replace(config, model=model), values)


def _with_weights(model: ModelConfig, recipe: RecipeName, say: Say) -> ModelConfig:
    """The network with the place where its pretrained weights are, "none" where that may be."""
    backbone = PRETRAINED_BACKBONE if model.backbone in OPEN else model.backbone
    found = find_weights(backbone, model.pretrained)
    if found.where != "none":
        say(f"Starting from the pretrained weights of {backbone} ({_PLACES[found.where]}).")
    elif model.pretrained != "auto" or recipe in ("finetune", "probe"):
        raise ConfigError(
            f"There are no pretrained weights of {backbone} at hand: {found.reason}; connect to the hub, install "
            "unsquare[weights], or give a file with --weights."
        )
    else:
        say(
            f"Training from scratch, which needs many more pictures and epochs: {found.reason}; to start from "
            "pretrained weights, connect to the hub, install unsquare[weights], or give a file with --weights."
        )
    return replace(model, pretrained=found.where)


_PLACES = {"hub": "from the hub", "package": "from the installed package"}


def settled(config: TrainConfig, sizes: Sizes) -> TrainConfig:
    """The settings with everything settled that a recipe gives.

    Args:
        config: the settings after `settled_network`.
        sizes: shapes of the training pictures as resized for training, (N, 2).
    """
    config = filled(config, _TRAINING[config.optimizer.recipe])
    stages = progressive_stages(config, sizes) if config.resolution.progressive == "auto" else None
    return filled(config, {"resolution": {"progressive": stages}})


def progressive_stages(config: TrainConfig, sizes: Sizes) -> str:
    """The stages of progressive resolution for pictures of these sizes."""
    if config.optimizer.recipe == "scratch":
        return "off"
    start = pretrained_pixels(config.model.backbone)
    usual = float(np.median(sizes.prod(axis=1)))
    if usual < 2 * start:
        return "off"
    middle = int(sqrt(start * usual))
    return f"{start}px:5,{middle}px:2,full:1"


def filled(config: TrainConfig, values: RecipeValues) -> TrainConfig:
    """The settings with values for those that are left open."""
    parts: dict[str, Any] = {}
    for part in fields(config):
        settings, given = getattr(config, part.name), values.get(part.name, {})
        names = [each.name for each in fields(settings) if each.name in given]
        changes = {name: given[name] for name in names if getattr(settings, name) in OPEN}
        parts[part.name] = replace(settings, **changes) if changes else settings
    return TrainConfig(**parts)


def _recipe_names() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"model": {"pretrained"}, "optimizer": {"recipe"}, "resolution": {"progressive"}}
    for network in _NETWORKS.values():
        found["model"] |= set(network)
    for values in _TRAINING.values():
        for table, given in values.items():
            found.setdefault(table, set()).update(given)
    return found


def as_settled(config: TrainConfig, own: TrainConfig) -> TrainConfig:
    """The settings with those that a recipe may give taken from a run, where they are left open."""
    names = _recipe_names()
    values = {table: {name: getattr(getattr(own, table), name) for name in names[table]} for table in names}
    if config.model.from_run is not None:
        config = replace(config, model=as_network(config.model, own.model))
    return filled(config, values)
