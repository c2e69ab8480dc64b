"""Checkpoints: tensors in safetensors, the rest in JSON, checksums over both; nothing is ever unpickled.

A checkpoint is written into a hidden folder and moved into place when it is complete, so a folder `step-N` is either
complete or missing. The manifest's checksums detect what a disk damaged later.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from unsquare.capacity.recovery import NO_CEILING
from unsquare.errors import RunError
from unsquare.runs.checkpoints import FILES, MANIFEST, UNAVERAGED, by_step, problem, read_state, remove, sha256_of
from unsquare.runs.schemas import Mark, Origin, State

VERSION: Literal[1] = 1
KEPT = 2
"""Checkpoints kept besides the best one."""


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """The state of a run, besides its tensors."""

    step: int
    """Optimizer steps done."""
    epoch: int
    """The epoch of the next step, from 0."""
    step_of_epoch: int
    """Position of the next step in its epoch's plan."""
    time_s: float
    """Seconds trained so far."""
    best_score: float = -1.0
    """Highest score on the val split (`runs.figures.score_of`); -1 before the first evaluation."""
    best_loss: float | None = None
    """The loss there, which decides between equals; None where it is not known."""
    ceiling_pixels: int = NO_CEILING
    """The most computed pixels of a micro-batch since memory ran out."""
    ceiling_steps: int = 0
    """Steps since that ceiling last changed."""
    planned_pixels: int = NO_CEILING
    """The ceiling with which the current epoch was planned."""
    waits_from: int | None = None
    """Epochs done at the last improvement on val, or when `patience` began to count; None where it is not known."""
    least_pixels: int = 0
    """Pictures are not shrunk below this many pixels any more, since the run was given more epochs."""
    largest_pixels: int | None = None
    """Pictures grow no further than this many pixels; None where they grow through all stages."""
    max_pixels: int | None = None
    """The most pixels of the pictures that the weights were last trained on; None where all had their full size."""


def save(
    folder: Path,
    name: str,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainState,
    origin: Origin | None = None,
    metrics: Mark | None = None,
    unaveraged: torch.nn.Module | None = None,
) -> Path:
    """Write the checkpoint `folder/name`, replacing one of that name.

    Args:
        folder: folder of checkpoints; created if missing, unless the run folder around it is missing as well.
        name: name of the checkpoint.
        model: the weights to use.
        optimizer: its state.
        state: the state of the run.
        origin: what the run is trained from.
        metrics: the end of its metrics file.
        unaveraged: the weights that training goes on from, where `model` has averages of them.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    partial, final = folder / f".{name}.partial", folder / name
    folder.mkdir(exist_ok=True)
    remove(partial)
    partial.mkdir()
    weights, tensors, state_json = (partial / file for file in FILES)
    optimizer_tensors, scalars = _split_optimizer(optimizer)
    try:
        save_file(_contiguous(model), weights)
        save_file(optimizer_tensors, tensors)
        if unaveraged is not None:
            save_file(_contiguous(unaveraged), partial / UNAVERAGED)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    values = State(version=VERSION, **vars(state), optimizer=scalars, origin=origin, metrics=metrics)
    state_json.write_text(json.dumps(msgspec.to_builtins(values)))
    _seal(partial)
    _put_in_place(partial, final)
    return final


def set_size(path: Path, max_pixels: int | None) -> None:
    """Record in a complete checkpoint the most pixels of pictures that its weights are to be used on."""
    partial = path.with_name(f".{path.name}.partial")
    remove(partial)
    shutil.copytree(path, partial, copy_function=_link_or_copy)
    values = msgspec.structs.replace(read_state(path), max_pixels=max_pixels)
    (partial / FILES[2]).unlink()
    (partial / FILES[2]).write_text(json.dumps(msgspec.to_builtins(values)))
    _seal(partial)
    _put_in_place(partial, path)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no links
        shutil.copy2(source, target)


def _seal(partial: Path) -> None:
    """Write the checksums of a checkpoint's files, and wait until all are on the disk."""
    (partial / MANIFEST).unlink(missing_ok=True)
    checksums = {file.name: sha256_of(file) for file in sorted(partial.iterdir())}
    (partial / MANIFEST).write_text(json.dumps({"version": VERSION, "sha256": checksums}))
    for file in partial.iterdir():
        _sync(file)


def _contiguous(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.contiguous() for key, value in model.state_dict().items()}


def _put_in_place(partial: Path, final: Path) -> None:
    """Move a complete checkpoint to its name; an earlier one stays until the new one can replace it.

    If the process is killed in between, `checkpoints.tidy` puts the earlier one back.
    """
    old = final.with_name(f".{final.name}.old")
    remove(old)
    if os.path.lexists(final):
        os.replace(final, old)
    os.replace(partial, final)
    _sync(final.parent)
    remove(old)


def prune(folder: Path) -> None:
    """Delete all but the latest `KEPT` checkpoints named by step."""
    for old in by_step(folder)[:-KEPT]:
        remove(old)


def load_model(path: Path, model: torch.nn.Module, file: str = FILES[0]) -> None:
    """Load a checkpoint's weights into a model of the same settings.

    Args:
        path: the checkpoint.
        model: changed in place.
        file: which of its files.

    Raises:
        RunError: the checkpoint is damaged, or of another model.
    """
    if wrong := problem(path):
        raise RunError(f"The checkpoint {path} cannot be used ({wrong}); use another one.")
    try:
        model.load_state_dict(load_file(path / file))
    except (OSError, SafetensorError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise RunError(f"The checkpoint {path} does not fit the run's model ({first}); use the run's own.") from error


def load_training(path: Path, optimizer: torch.optim.Optimizer) -> TrainState:
    """Load a checkpoint's optimizer and return the run's state; `load_model` loads the weights.

    Raises:
        RunError: it is of another optimizer.
    """
    values = read_state(path)
    try:
        _join_optimizer(optimizer, load_file(path / FILES[1]), values.optimizer)
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        raise RunError(
            f"The checkpoint {path} does not fit the run's optimizer ({error!r}); use the run's own."
        ) from error
    return TrainState(**{field.name: getattr(values, field.name) for field in fields(TrainState)})


def _split_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The optimizer's state as named tensors, and the rest as JSON values.

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
            # Laid out like the parameter: fused optimizers access both by address.
            value = torch.empty_like(parameters[int(number)], dtype=value.dtype).copy_(value)
        place = state.setdefault(int(number), {}) if kind == "state" else content["param_groups"][int(number)]
        place[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": content["param_groups"]})


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
