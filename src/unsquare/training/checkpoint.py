"""Checkpoints: tensors in safetensors, the rest in JSON, checksums over both; nothing is ever unpickled.

A checkpoint is written into a hidden folder and moved into place when it is whole, so a folder `step-N` is either
complete or not there. The manifest's checksums find what a disk has done to it since.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from unsquare.errors import RunError

VERSION = 1
NO_CEILING = 1 << 62
KEPT = 2
"""Checkpoints kept beside the best one."""

_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Where a run stands, beside its tensors."""

    step: int
    """Optimizer steps done."""
    epoch: int
    """The epoch of the next step, from 0."""
    step_of_epoch: int
    """Position of the next step in its epoch's plan."""
    time_s: float
    """Seconds trained so far."""
    best_score: float = -1.0
    """Highest mean per-class accuracy on the val split; -1 before the first evaluation."""
    ceiling_pixels: int = NO_CEILING
    """The most computed pixels of a micro-batch since memory ran out."""
    ceiling_steps: int = 0
    """Steps since that ceiling last moved."""
    planned_pixels: int = NO_CEILING
    """The ceiling with which the epoch under way was planned."""


def save(folder: Path, name: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: TrainState) -> Path:
    """Write the checkpoint `folder/name`, replacing one of that name.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    partial, final = folder / f".{name}.partial", folder / name
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, partial / _FILES[0])
        tensors, scalars = _split_optimizer(optimizer)
        save_file(tensors, partial / _FILES[1])
        values = {"version": VERSION, **vars(state), "optimizer": scalars}
        (partial / _FILES[2]).write_text(json.dumps(values))
        checksums = {file: _checksum(partial / file) for file in _FILES}
        (partial / "manifest.json").write_text(json.dumps({"version": VERSION, "sha256": checksums}))
        for file in partial.iterdir():
            _sync(file)
        _put_in_place(partial, final)
    except (OSError, SafetensorError) as error:
        raise RunError(f"The checkpoint {final} cannot be written ({error}); free space and resume.") from error
    return final


def _put_in_place(partial: Path, final: Path) -> None:
    """Move a whole checkpoint to its name; one that is there already stays until the new one can take its place."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(partial, final)
    _sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def prune(folder: Path) -> None:
    """Delete all but the latest `KEPT` checkpoints named by step."""
    for old in _by_step(folder)[:-KEPT]:
        shutil.rmtree(old)


def latest(folder: Path) -> Path:
    """The newest checkpoint that is whole.

    Raises:
        RunError: there is none, or all are damaged.
    """
    candidates = _by_step(folder)
    for path in reversed(candidates):
        if not problem(path):
            return path
    if candidates:
        raise RunError(f"No checkpoint in {folder} is whole ({problem(candidates[-1])}); start the run anew.")
    raise RunError(f"The run stopped before its first checkpoint, so {folder} holds none; start the run anew.")


def problem(path: Path) -> str:
    """What is wrong with a checkpoint; empty where nothing is."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["version"] != VERSION:
            return f"{path.name} has version {manifest['version']}, this release reads {VERSION}"
        for file in _FILES:
            if _checksum(path / file) != manifest["sha256"][file]:
                return f"{path.name}/{file} has changed since it was written"
    except (OSError, ValueError, KeyError) as error:
        return f"{path.name} cannot be read: {error}"
    return ""


def load_model(path: Path, model: torch.nn.Module) -> None:
    """Load a checkpoint's weights into a model of the same settings.

    Raises:
        RunError: the checkpoint is damaged or of another model.
    """
    if wrong := problem(path):
        raise RunError(f"The checkpoint {path} cannot be used ({wrong}); use another one.")
    try:
        model.load_state_dict(load_file(path / _FILES[0]))
    except (SafetensorError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise RunError(f"The checkpoint {path} does not fit the run's model ({first}); use the run's own.") from error


def load_training(path: Path, optimizer: torch.optim.Optimizer) -> TrainState:
    """Load a checkpoint's optimizer and return where the run stood; the weights are `load_model`'s."""
    values = json.loads((path / _FILES[2]).read_text())
    scalars = values.pop("optimizer")
    values.pop("version")
    _join_optimizer(optimizer, load_file(path / _FILES[1]), scalars)
    return TrainState(**values)


def _split_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The optimizer's state as named tensors, and what of it is no tensor as JSON values.

    Names are `state.PARAMETER.NAME` and `group.NUMBER.NAME`; some optimizers count their steps in the groups.
    """
    content = optimizer.state_dict()
    flat = {
        f"state.{number}.{name}": value for number, part in content["state"].items() for name, value in part.items()
    }
    for number, group in enumerate(content["param_groups"]):
        flat |= {f"group.{number}.{name}": value for name, value in group.items() if name != "params"}
    tensors = {name: value.contiguous() for name, value in flat.items() if isinstance(value, torch.Tensor)}
    return tensors, {name: value for name, value in flat.items() if name not in tensors}


def _join_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], scalars: dict[str, Any]
) -> None:
    content = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **scalars}.items():
        kind, number, name = key.split(".", 2)
        if kind == "state" and isinstance(value, torch.Tensor) and value.shape == parameters[int(number)].shape:
            # Laid out as the parameter is: fused optimizers walk both by address.
            value = torch.empty_like(parameters[int(number)], dtype=value.dtype).copy_(value)
        place = state.setdefault(int(number), {}) if kind == "state" else content["param_groups"][int(number)]
        place[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": content["param_groups"]})


def _by_step(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
