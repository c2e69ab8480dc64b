"""Where a run stands that goes on: from which checkpoint, with what, and whether anything was changed under it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unsquare.errors import RunError
from unsquare.index.table import ShapeIndex
from unsquare.runs import checkpoints
from unsquare.runs.checkpoints import BEST
from unsquare.runs.folder import RunFolder
from unsquare.runs.metrics import Row, kind_of
from unsquare.runs.origin import (
    bounds_of,
    index_of,
    located,
    require_same_pictures,
    require_same_settings,
    require_same_source,
    settings_of,
    with_changed_pictures,
)
from unsquare.runs.schemas import EvaluationRow, Mark, Origin, State
from unsquare.runs.tables import read_evaluation
from unsquare.toml import tomllib
from unsquare.training.config import TrainConfig, from_toml, to_toml
from unsquare.training.console import Console
from unsquare.training.setup import trainable_index


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the first rank found in the folder of a run that goes on."""

    checkpoint: str
    """Name of the newest that is whole."""
    origin: Origin
    """What the run is trained from now."""
    saved_origin: Origin | None
    """The same in the checkpoint, which an earlier release did not write."""
    bounds: dict[str, Any]
    index: ShapeIndex
    metrics: Mark | None
    best_score: float | None
    """Where the best weights are lost: the score of the checkpoint's on val, -1 where it is not known. Else None."""
    epochs: int
    """Those that the run was to have."""
    is_finished: bool


def settings_tree(config: TrainConfig) -> dict[str, Any]:
    """The settings as `config.toml` has them."""
    return tomllib.loads(to_toml(config))


def standing_of(
    run: RunFolder, config: TrainConfig, console: Console, *, source: Path | None, changed_pictures: bool
) -> Standing | None:
    """Where the run in a folder that is locked stands; None where it never came to a checkpoint, whose files then go.

    Args:
        run: the folder.
        config: the settings asked for, precision resolved.
        console: told what was mended.
        source: what `train` was given; None of a resume.
        changed_pictures: take pictures that were changed as they are now.

    Raises:
        RunError: settings, source, index or pictures are others, or no checkpoint is whole.
    """
    newest = checkpoints.newest(run.checkpoints)
    if newest is None:
        run.require_never_saved()
        if source is not None and run.is_begun:
            if os.path.dirname(os.path.realpath(source)) == os.path.realpath(run.path):
                raise RunError(
                    f"A run that starts anew deletes the files of the one before, but the source {source} is one of "
                    f"them; move it out of {run.path}."
                )
            console.say(f"{run.path} holds a run that ended before its first checkpoint; it starts anew.")
            run.clear()
        return None
    state = checkpoints.read_state(newest)
    own = _own_settings(run, state, console)
    require_same_settings(run, settings_tree(own), settings_tree(config))
    if source is not None and state.origin is not None:
        require_same_source(run, state.origin, source)
    _drop_damaged(run, newest, console)
    bounds, words = bounds_of(run, state.origin)
    _warn(console, words)
    index, words = index_of(run, state.origin, lambda place: trainable_index(place, own, console))
    _warn(console, words)
    rows = run.read_metrics().rows
    is_finished = _is_finished(run, config, state, rows)
    num_changed = 0
    if changed_pictures and not is_finished:
        index, num_changed = with_changed_pictures(index)
        words = f"{num_changed:,} pictures were changed since the run started, and count as they are now."
        _warn(console, words if num_changed else "")
    elif not is_finished:
        require_same_pictures(index, index.root)
    place, digest = (index.root, None) if source is None else located(source)
    return Standing(
        checkpoint=newest.name,
        origin=Origin(
            settings=settings_tree(config),
            bounds=bounds,
            index_sha256=checkpoints.sha256_of(run.index),
            source=state.origin.source if state.origin else place,
            source_sha256=state.origin.source_sha256 if state.origin else digest,
        ),
        saved_origin=None if num_changed else state.origin,
        bounds=bounds,
        index=index,
        metrics=state.metrics,
        best_score=_score_in_place_of_best(run, state, rows, console),
        epochs=state.origin.settings["optimizer"]["epochs"] if state.origin else own.optimizer.epochs,
        is_finished=is_finished,
    )


def settings_of_run(run: RunFolder) -> TrainConfig:
    """The settings of a run, those of its newest checkpoint where `config.toml` cannot be read.

    Raises:
        RunError: they were edited since the run started, or there are none.
    """
    newest = checkpoints.newest(run.checkpoints)
    origin = checkpoints.read_state(newest).origin if newest is not None else None
    return from_toml(settings_of(run, origin)[0], str(run.config))


def _own_settings(run: RunFolder, state: State, console: Console) -> TrainConfig:
    text, words = settings_of(run, state.origin)
    _warn(console, words)
    return from_toml(text, str(run.config))


def _drop_damaged(run: RunFolder, newest: Path, console: Console) -> None:
    """Delete the checkpoints that are not whole, which would count among the latest that are kept."""
    for path in checkpoints.by_step(run.checkpoints):
        if path != newest and (wrong := checkpoints.problem(path)):
            _warn(console, f"A checkpoint of {run.path} is damaged ({wrong}); the run goes on from {newest.name}.")
            with run.writing(path):
                checkpoints.remove(path)


def _is_finished(run: RunFolder, config: TrainConfig, state: State, rows: list[Row]) -> bool:
    """Whether the last epoch is trained, and the best weights are there and evaluated."""
    if state.epoch < config.optimizer.epochs or checkpoints.problem(run.checkpoints / BEST):
        return False
    try:
        read_evaluation(run.evaluation)
    except RunError:
        return False
    return any(kind_of(row) == "final" and row.values.step == state.step for row in rows)


def _score_in_place_of_best(run: RunFolder, state: State, rows: list[Row], console: Console) -> float | None:
    """Where the best weights are lost: the score of the checkpoint's on val, -1 where it is not known. Else None."""
    best = run.checkpoints / BEST
    wrong = checkpoints.problem(best) if os.path.lexists(best) else "best is gone"
    if not wrong:
        return None
    with run.writing(best):
        checkpoints.remove(best)
    if state.best_score < 0:  # nothing was evaluated before this checkpoint
        return None
    _warn(console, f"The best weights of {run.path} are damaged ({wrong}); they are chosen anew from here on.")
    here = [row.values for row in rows if kind_of(row) == "eval" and row.values.step == state.step]
    known = [row.mean_per_class_accuracy for row in here if isinstance(row, EvaluationRow)]
    return known[-1] if known and state.step_of_epoch == 0 else -1.0


def _warn(console: Console, words: str) -> None:
    if words:
        console.warn(words)
