"""What a run gives to another one that starts from it: settings, network, and the head where the classes are the same.

The backbone's weights are loaded with the network, like those of any file. The head is taken here, because it belongs
to classes: its rows are moved to the places that their classes have in the new run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from unsquare.index.listing import class_name
from unsquare.index.table import ShapeIndex
from unsquare.network.config import ModelConfig
from unsquare.progress import Say
from unsquare.runs import checkpoints
from unsquare.runs.folder import RunFolder
from unsquare.runs.origin import own_index, settings_of
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


def take_head(model: nn.Module, run: Path, index: ShapeIndex, say: Say) -> None:
    """Load what follows the backbone from a run's best weights, if task, classes and pool are the same.

    Args:
        model: the classifier, changed in place.
        run: the run folder.
        index: that of the new run, with its classes in the order of its logits.
        say: told what was taken.

    Raises:
        RunError: the run, or its best weights, cannot be used.
    """
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
    if any(name not in found or found[name].shape != value.shape for name, value in wanted.items()):
        say(f"Starting from the weights of {run} with a new head: its pool is another.")
        return
    rows = [theirs.index(name) for name in ours]
    found |= {name: found[name][rows] for name in ("head.weight", "head.bias")}
    model.load_state_dict(found, strict=False)
    say(f"Starting from the weights of {run}, its head included.")
