"""What a run gives to another one that starts from it: settings, network, and the head where the classes are the same.

The backbone's weights are loaded with the network, like those of any file. The head is taken here, because it belongs
to classes: its rows are moved to the places that their classes have in the new run.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from torch import nn

from unsquare.errors import RunError
from unsquare.index.listing import class_name
from unsquare.index.table import ShapeIndex
from unsquare.network.config import ModelConfig, OptimizerConfig
from unsquare.network.losses import Objective
from unsquare.progress import Say
from unsquare.runs import checkpoints
from unsquare.runs.folder import RunFolder
from unsquare.runs.origin import own_index, settings_of
from unsquare.runs.tables import read_index
from unsquare.training.config import TrainConfig, from_toml


def settings_of_run(run: RunFolder) -> TrainConfig:
    """The settings of a run, those of its newest checkpoint where `config.toml` cannot be read.

    Raises:
        RunError: they were edited since the run started, or there are none.
    """
    newest = checkpoints.newest(run.checkpoints)
    origin = checkpoints.read_state(newest).origin if newest is not None else None
    return from_toml(settings_of(run, origin)[0], str(run.config))


def network_of_run(model: ModelConfig) -> ModelConfig:
    """The network with what is left open taken from the run that it starts from; itself where there is none.

    Raises:
        RunError: there is no such run.
    """
    if model.from_run is None:
        return model
    return as_network(model, settings_of_run(RunFolder.open(model.from_run)).model)


def as_network(model: ModelConfig, other: ModelConfig) -> ModelConfig:
    """The network with what is left open as in another one; the levels of a pyramid go with its pool."""
    default = ModelConfig()
    names = [name for name in ("backbone", "norm", "pool") if getattr(model, name) == "auto"]
    if "pool" in names:
        names += [name for name in ("pyramid", "pyramid_mode") if getattr(model, name) == getattr(default, name)]
    return replace(model, **{name: getattr(other, name) for name in names})


def take_head(model: nn.Module, config: ModelConfig, index: ShapeIndex, say: Say) -> None:
    """Load what follows the backbone from a run's best weights, if task, classes and pool are the same.

    Args:
        model: the classifier, changed in place.
        config: its settings, which name the run.
        index: that of the new run, with its classes in the order of its logits.
        say: told what was taken.

    Raises:
        RunError: the run, or its best weights, cannot be used.
    """
    run = config.from_run
    assert run is not None, "a run to start from"
    folder = RunFolder.open(run)
    path, _ = checkpoints.best_or_newest(folder.checkpoints)
    other = own_index(folder, checkpoints.read_state(path).origin)
    if index.task != other.task:
        say(f"Starting from the weights of {run} with a new head: its task is {other.task}.")
        return
    theirs = [class_name(name) for name in other.classes]
    ours = [class_name(name) for name in index.classes]
    if sorted(ours) != sorted(theirs):
        say(f"Starting from the weights of {run} with a new head: its classes are others.")
        return
    wanted = {name: value for name, value in model.state_dict().items() if not name.startswith("backbone.")}
    with safe_open(path / checkpoints.FILES[0], framework="pt") as file:
        found: dict[str, Any] = {name: file.get_tensor(name) for name in wanted if name in file.keys()}  # noqa: SIM118
    models = (config.settled(), settings_of_run(folder).model.settled())
    kinds = [(model.pool, model.pyramid, model.pyramid_mode) for model in models]
    same_pool = kinds[0] == kinds[1] if models[0].pool == "spp" else models[0].pool == models[1].pool
    if not same_pool or any(name not in found or found[name].shape != value.shape for name, value in wanted.items()):
        say(f"Starting from the weights of {run} with a new head: its pool is another.")
        return
    rows = [theirs.index(name) for name in ours]
    weight, bias = (found[f"head.{name}"][rows] for name in ("weight", "bias"))
    if index.task == "regression":  # outputs are in standard deviations from the mean of a run's own values
        old, new = (Objective.of(each, OptimizerConfig()) for each in (other, index))
        weight, bias = weight * (old.std / new.std), (bias * old.std + (old.mean - new.mean)) / new.std
    model.load_state_dict(found | {"head.weight": weight, "head.bias": bias}, strict=False)
    say(f"Starting from the weights of {run}, its head included.")


def trained_before(index: ShapeIndex, run: Path | None) -> npt.NDArray[np.bool_]:
    """Which images of an index a run was trained on, or a run that it started from, as far as these are still there.

    An image is the same if its path is, or its file's name, length and shape: folders may have moved.

    Args:
        index: the images.
        run: the run folder; None has no images.
    """
    known: set[Hashable] = set()
    seen: set[Path] = set()
    while run is not None and run not in seen:
        seen.add(run)
        try:
            folder = RunFolder.open(run)
            known.update(key for each in _identities(read_index(folder.index).of_split("train")) for key in each)
            run = settings_of_run(folder).model.from_run
        except RunError:
            break
    return np.array([not known.isdisjoint(each) for each in _identities(index)], dtype=bool)


def _identities(index: ShapeIndex) -> Iterator[set[Hashable]]:
    """What each image is recognized by."""
    for row, (key, length, size) in enumerate(zip(index.keys, index.num_bytes.tolist(), index.sizes.tolist())):
        found: set[Hashable] = {os.path.realpath(index.path(row))} if index.root else set()
        yield found | ({(PurePosixPath(key).name, length, *size)} if length else set())
