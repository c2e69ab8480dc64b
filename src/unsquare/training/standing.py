"""The state of a run that is to be resumed: from which checkpoint, with what, and whether anything was changed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from unsquare.errors import RunError
from unsquare.index.scan import scan_source
from unsquare.index.table import ShapeIndex
from unsquare.runs import checkpoints
from unsquare.runs.checkpoints import BEST
from unsquare.runs.folder import RunFolder
from unsquare.runs.metrics import MetricsLine, kind_of
from unsquare.runs.origin import (
    index_of,
    limits_of,
    located,
    plan_words,
    require_same_pictures,
    require_same_settings,
    require_same_source,
    settings_of,
    with_changed_pictures,
    words_of_new_pictures,
)
from unsquare.runs.rows import EvaluationRow
from unsquare.runs.schemas import Mark, Origin, State
from unsquare.runs.tables import read_evaluation
from unsquare.toml import tomllib
from unsquare.training.config import TrainConfig, from_toml, to_toml
from unsquare.training.console import Console
from unsquare.training.recipes import as_settled
from unsquare.training.setup import trainable_index

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the first rank found in the folder of a run that is to be resumed."""

    config: TrainConfig
    """The settings from now on."""
    checkpoint: str
    """Name of the newest complete checkpoint."""
    origin: Origin
    """What the run is trained from now on."""
    saved_origin: Origin | None
    """The origin in the checkpoint; None in checkpoints of earlier releases."""
    index: ShapeIndex
    metrics: Mark | None
    best_score: float | None
    """Where the best weights are lost: the checkpoint's score on val, -1 where it is not known. Else None."""
    epochs: int
    """The number that the run was started with."""
    is_finished: bool


def settings_tree(config: TrainConfig) -> dict[str, Any]:
    """The settings as they are in `config.toml`."""
    return tomllib.loads(to_toml(config))


def standing_of(
    run: RunFolder, config: TrainConfig, console: Console, *, source: Path | None, changed_pictures: bool
) -> Standing | None:
    """The state of the run in a locked folder; None, after its files are deleted, where it never wrote a checkpoint.

    Args:
        run: the run folder.
        config: the settings asked for, precision resolved; those left to a recipe are the run's own.
        console: told what was repaired.
        source: the source given to `train`; None for a resume.
        changed_pictures: use pictures that have changed as they are now.

    Raises:
        RunError: settings, source, index or pictures differ, or no checkpoint is complete.
    """
    newest = checkpoints.newest(run.checkpoints)
    if newest is None:
        _clear_unsaved(run, source, console)
        return None
    state = checkpoints.read_state(newest)
    own = from_toml(_warned(console, settings_of(run, state.origin)), str(run.config))
    config = as_settled(config, own)
    _require_same(run, state.origin, own, config, source)
    _drop_damaged(run, newest, console)
    console.warn(plan_words(run))
    planned = _warned(console, index_of(run, state.origin, lambda place: trainable_index(place, own, console)))
    origin = _origin_now(run, state.origin, config, planned, source, console)
    rows = run.read_metrics().rows
    is_finished = _is_finished(run, config, state, rows, planned)
    index = planned if is_finished else _pictures_now(planned, origin.source, console, changed_pictures)
    return Standing(
        config=config,
        checkpoint=newest.name,
        origin=origin,
        saved_origin=state.origin if index is planned else None,
        index=index,
        metrics=state.metrics,
        best_score=_score_in_place_of_best(run, state, rows, console),
        epochs=state.origin.settings["optimizer"]["epochs"] if state.origin else own.epochs,
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


def _clear_unsaved(run: RunFolder, source: Path | None, console: Console) -> None:
    """Delete the files of a run that never wrote a checkpoint, where `train` is to start a new one."""
    run.require_never_saved()
    if source is None or not run.is_begun:
        return
    if os.path.dirname(os.path.realpath(source)) == os.path.realpath(run.path):
        raise RunError(
            f"Starting a new run in {run.path} deletes the files of the one before, but the source {source} is one of "
            "them; move it to another folder."
        )
    console.say(f"The run in {run.path} ended before its first checkpoint; a new run starts.")
    run.clear()


def _require_same(
    run: RunFolder, saved: Origin | None, own: TrainConfig, config: TrainConfig, source: Path | None
) -> None:
    """Refuse settings or a source that are not the run's."""
    require_same_settings(run, settings_tree(own), settings_tree(config))
    if source is not None and saved is not None:
        require_same_source(run, saved, source)


def _origin_now(
    run: RunFolder,
    saved: Origin | None,
    config: TrainConfig,
    index: ShapeIndex,
    source: Path | None,
    console: Console,
) -> Origin:
    """The present origin: what the run is trained from now on."""
    if saved is not None:
        place, digest = saved.source, saved.source_sha256
    else:
        place, digest = (index.root, None) if source is None else located(source)
    return Origin(
        settings=settings_tree(config),
        bounds=_warned(console, limits_of(run, saved)),
        index_sha256=checkpoints.sha256_of(run.index),
        source=place,
        source_sha256=digest,
    )


def _pictures_now(index: ShapeIndex, source: str, console: Console, changed_pictures: bool) -> ShapeIndex:
    """The index to use from now on: the same, unless changed pictures are to be used as they are."""
    if changed_pictures:
        changed, number = with_changed_pictures(index)
        if number:
            index = changed
            console.warn(f"{number:,} pictures have changed since the run started, and are used as they are now.")
    else:
        require_same_pictures(index, index.root)
    progress = console.progress("looking for new pictures")
    console.warn(
        words_of_new_pictures(
            index, source, lambda place: scan_source(place, previous=index, choices=index.choices, progress=progress)
        )
    )
    return index


def _drop_damaged(run: RunFolder, newest: Path, console: Console) -> None:
    """Delete damaged checkpoints, which would count among the latest ones that are kept."""
    for path in checkpoints.by_step(run.checkpoints):
        if path != newest and (wrong := checkpoints.problem(path)):
            console.warn(f"A checkpoint of {run.path} is damaged ({wrong}); the run resumes from {newest.name}.")
            with run.writing(path):
                checkpoints.remove(path)


def _is_finished(run: RunFolder, config: TrainConfig, state: State, rows: list[MetricsLine], index: ShapeIndex) -> bool:
    """Whether the last epoch is trained, and the best weights are there, and evaluated where images are held out."""
    if state.epoch < config.epochs or checkpoints.problem(run.checkpoints / BEST):
        return False
    if index.all_train:
        return checkpoints.read_state(run.checkpoints / BEST).step == state.step
    try:
        read_evaluation(run.evaluation)
    except RunError:
        return False
    return any(kind_of(row) == "final" and row.values.step == state.step for row in rows)


def _score_in_place_of_best(run: RunFolder, state: State, rows: list[MetricsLine], console: Console) -> float | None:
    """Where the best weights are lost: the score of the checkpoint's on val, -1 where it is not known. Else None."""
    best = run.checkpoints / BEST
    wrong = checkpoints.problem(best) if os.path.lexists(best) else "best is missing"
    if not wrong:
        return None
    with run.writing(best):
        checkpoints.remove(best)
    if state.best_score < 0:  # there was no evaluation before this checkpoint
        return None
    console.warn(
        f"The best weights of {run.path} are damaged ({wrong}); the best weights from now on will replace them."
    )
    here = [row.values for row in rows if kind_of(row) == "eval" and row.values.step == state.step]
    known = [row.score for row in here if isinstance(row, EvaluationRow)]
    return known[-1] if known and state.step_of_epoch == 0 else -1.0


def _warned(console: Console, found: tuple[T, str]) -> T:
    """The first of the two, after giving the second as a warning."""
    value, words = found
    console.warn(words)
    return value
