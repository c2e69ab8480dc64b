"""Starts runs, and resumes them.

One command does both: in the folder of a run that is not finished, `train` resumes it. The first rank looks at the
folder, and all ranks use its findings; what is wrong there is refused, or repaired with a message (`standing`).
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from unsquare.errors import RunError
from unsquare.files import replacing
from unsquare.index.scan import require_source
from unsquare.index.table import ShapeIndex
from unsquare.index.text import printable
from unsquare.network.device import launch
from unsquare.network.ranks import barrier, from_first
from unsquare.runs.checkpoints import BEST, UNAVERAGED, best_or_newest, read_state, sha256_of
from unsquare.runs.figures import LEADING, WORDS
from unsquare.runs.folder import RunFolder
from unsquare.runs.memory_profile import RunLimits
from unsquare.runs.origin import limits_of, located, settings_of
from unsquare.runs.reading import DamagedFileError
from unsquare.runs.schemas import Origin
from unsquare.runs.selection import best_of_several
from unsquare.runs.tables import read_index, read_memory
from unsquare.training import checkpoint, setup
from unsquare.training.checkpoint import TrainState
from unsquare.training.components import DEFAULT, Components
from unsquare.training.config import TrainConfig, to_toml
from unsquare.training.console import Console
from unsquare.training.early_stopping import early_words
from unsquare.training.loop import Session, run_epochs, save, size_of, write
from unsquare.training.metrics import write_evaluation
from unsquare.training.other_run import settings_of_run
from unsquare.training.recipes import settled, settled_network
from unsquare.training.resolution import bound_of, size_text, stage_geometry
from unsquare.training.setup import TrainingJob
from unsquare.training.standing import Standing, settings_tree, standing_of


def train(
    source: Path | str,
    out: Path | str,
    config: TrainConfig | None = None,
    *,
    changed_pictures: bool = False,
    quiet: bool = False,
    components: Components = DEFAULT,
) -> Path:
    """Train a classifier on a source of pictures and evaluate it; resume it if `out` holds this run already.

    Args:
        source: a folder of class folders, a manifest, MAMe's folder, or an index.
        out: the run folder: new, empty, or that of a run with the same source and settings.
        config: the settings; the defaults suit a first run.
        changed_pictures: on a resume, use pictures that have changed since the run started as they are now.
        quiet: print nothing.
        components: how the network is created and images are batched; comparisons replace it.

    Returns:
        The run folder.

    Raises:
        UnsquareError: a problem that the user can fix; before the first step, `out` is left as it was.
        Stopped: a signal stopped the run after a step; it is saved.
    """
    started = time.perf_counter()
    asked = config or TrainConfig()
    if printable(str(out)) != str(out):
        raise RunError(f"A run folder's name must be UTF-8, but is '{printable(str(out))}'; give another with --out.")
    auto_precision = asked.device.precision == "auto"
    fabric = launch(asked.device)
    asked = replace(asked, device=replace(asked.device, precision=setup.precision_name(fabric)))
    console = Console(quiet=quiet or not fabric.is_global_zero)
    run = RunFolder(Path(out))
    job = TrainingJob(run=run, config=asked, fabric=fabric, console=console, components=components)

    def look() -> Standing | None:
        run.claim()
        return standing_of(run, asked, console, source=Path(source), changed_pictures=changed_pictures)

    try:
        standing = from_first(fabric, look)
        if standing is not None:
            return _continue(replace(job, config=standing.config), standing, started)
        try:
            config, origin = from_first(fabric, lambda: begin(run, Path(source), asked, console))
            barrier(fabric)
            index = read_index(run.index)
            session = setup.prepare(replace(job, config=config), index, origin, auto_precision=auto_precision)
        except BaseException:
            run.discard()
            raise
        return _finish(session, TrainState(step=0, epoch=0, step_of_epoch=0, time_s=0.0), started)
    finally:
        run.unlock()


def resume(
    path: Path | str,
    config: TrainConfig | None = None,
    *,
    epochs: int | None = None,
    changed_pictures: bool = False,
    quiet: bool = False,
) -> Path:
    """Resume a run from its last checkpoint, as if it had never stopped.

    Args:
        path: the run folder.
        config: the settings; None uses the run's own, of which only epochs and patience may differ.
        epochs: passes over the training images in all, to train longer than the run was started with.
        changed_pictures: use pictures that have changed since the run started as they are now.
        quiet: print nothing.

    Raises:
        UnsquareError: there is no run, it is in use, or nothing of it can be used.
        Stopped: a signal stopped the run after a step; it is saved.
    """
    started = time.perf_counter()
    run = RunFolder.open(Path(path))
    config = config or settings_of_run(run)
    if epochs is not None:
        config = replace(config, optimizer=replace(config.optimizer, epochs=epochs))
    fabric = launch(config.device)
    console = Console(quiet=quiet or not fabric.is_global_zero)

    def look() -> Standing | None:
        run.lock()
        return standing_of(run, config, console, source=None, changed_pictures=changed_pictures)

    try:
        standing = from_first(fabric, look)
        if standing is None:
            raise RunError(run.no_checkpoint)
        job = TrainingJob(run=run, config=standing.config, fabric=fabric, console=console)
        return _continue(job, standing, started)
    finally:
        run.unlock()


def begin(run: RunFolder, source: Path, config: TrainConfig, console: Console) -> tuple[TrainConfig, Origin]:
    """Settle a new run's settings, and write them with its index."""
    require_source(source)
    config = settled_network(config, console.say)
    index = setup.trainable_index(source, config, console)
    config = settled(config, config.geometry.resize(index.of_split("train").sizes))
    with run.writing(run.index):
        index.write(run.index)
    run.write_config(to_toml(config))
    path, digest = located(source)
    origin = Origin(
        settings=settings_tree(config),
        bounds={},
        index_sha256=sha256_of(run.index),
        source=path,
        source_sha256=digest,
    )
    return config, origin


def _continue(job: TrainingJob, standing: Standing, started: float) -> Path:
    """Train from a checkpoint to the end."""
    run, config, fabric, console = job.run, job.config, job.fabric, job.console
    if standing.is_finished:
        if fabric.is_global_zero:
            _repair(run, config, standing)
        ended = f"is finished after {config.epochs} epochs; give more --epochs"
        if standing.epoch < config.epochs:
            ended = f"ended {early_words(config, standing.epoch)}; give more --patience or --epochs"
        console.say(f"The run in {run.path} {ended} to continue it.")
        return run.path
    before = RunLimits.from_dict(standing.origin.bounds)
    limits: RunLimits | None = before
    if before.world_size != fabric.world_size:
        if config.plan.steps == "b2b":
            raise RunError(
                f"In b2b the steps of an epoch depend on the number of processes, but {run.path} was started on "
                f"{before.world_size} and is resumed on {fabric.world_size}; use the same number."
            )
        limits = None  # mixed steps are the same on any number of processes, but each one's share of the memory is not
    session = setup.prepare(
        job, standing.index, standing.origin, limits, fresh=False, auto_precision=before.auto_precision
    )
    latest = run.checkpoints / standing.checkpoint
    checkpoint.load_model(latest, session.engine.evaluated)
    if session.engine.average is not None:
        checkpoint.load_model(latest, session.engine.model, UNAVERAGED)
    state = checkpoint.load_training(latest, session.engine.optimizer)
    if session.is_main:
        _set_back(session, standing, state)
    console.say(f"Resuming {run.path} after step {state.step}.")
    if standing.epochs < config.epochs:
        state = _with_more_epochs(config, standing, state, console)
    if standing.best_score is not None:
        state = replace(state, best_score=standing.best_score, best_loss=None)
        if standing.best_score >= 0:
            write(session, BEST, state)
    session = replace(session, epochs=session.epochs.resumed(state))
    if session.origin != standing.saved_origin or standing.checkpoint == BEST:
        session = _save_again(session, standing.index, state)
    return _finish(session, state, started)


def _with_more_epochs(config: TrainConfig, standing: Standing, state: TrainState, console: Console) -> TrainState:
    """The state of a run that is now longer: patience counts from here, and pictures stay as large as they are."""
    console.say(
        f"The run now has {config.epochs} epochs instead of {standing.epochs}; from now on the learning rate follows "
        "the schedule of the longer run."
    )
    reached = bound_of(config.geometry, state.max_pixels) if state.step else 0
    return replace(state, waits_from=state.epoch, least_pixels=reached)


def _repair(run: RunFolder, config: TrainConfig, standing: Standing) -> None:
    """Restore the settings and limits of a finished run where the files have changed."""
    if settings_of(run, standing.saved_origin)[1]:
        run.write_config(to_toml(config))
    if limits_of(run, standing.saved_origin)[1]:
        run.write_json(run.models, standing.origin.bounds)


def _set_back(session: Session, standing: Standing, state: TrainState) -> None:
    """Set the files of the run back to the state of its checkpoint."""
    run, console = session.run, session.console
    console.warn(run.keep_metrics_until(state.step, standing.metrics))
    run.write_config(to_toml(session.config))
    if run.memory.exists():
        try:
            session.watch.take_over(read_memory(run.memory).to_pydict(), state.time_s)
        except DamagedFileError as error:
            console.warn(f"{run.memory} cannot be read ({error.reason}), so the run's memory trace starts again.")


def _save_again(session: Session, index: ShapeIndex, state: TrainState) -> Session:
    """Save the checkpoint again with the present origin, before writing the index that it names."""
    run = session.run
    if not session.is_main:
        save(session, state)
        return session
    with run.writing(run.index), replacing(run.index) as partial:
        index.write(partial)
        session = replace(session, origin=msgspec.structs.replace(session.origin, index_sha256=sha256_of(partial)))
        save(session, state)
    return session


def _finish(session: Session, state: TrainState, started: float) -> Path:
    """Train to the end, then evaluate the best weights and write the report."""
    run = session.run
    if session.is_main:
        seconds = time.perf_counter() - started
        run.append_metrics({"kind": "start", "step": state.step, "time_s": state.time_s, "seconds": seconds})
    session.watch.start(state.time_s)
    try:
        state = run_epochs(session, state)
        if session.epochs.stages[-1].validation is None:
            write(session, BEST, state)
        best, words = from_first(session.engine.fabric, lambda: best_or_newest(run.checkpoints))
        if session.is_main:
            session.console.warn(words)
        checkpoint.load_model(best, session.engine.evaluated)
        _choose_size(session, best)
        _evaluate_best(session, state, read_state(best).max_pixels)
        if session.is_main:
            session.write_memory()
    finally:
        session.console.stop()
        session.watch.stop()
    return run.path


def _choose_size(session: Session, best: Path) -> None:
    """Find the size at which the best weights do best on val, and record it in their checkpoint."""
    if session.sizes is None:
        return
    own = read_state(best).max_pixels
    chosen = session.sizes.best(own)
    if chosen.tried:
        session.console.say(f"The best weights on val: {chosen.words}.")

    def record() -> None:
        with session.run.writing(best):
            checkpoint.set_size(best, chosen.size)

    if chosen.size != own:
        from_first(session.engine.fabric, record)


def _evaluate_best(session: Session, state: TrainState, max_pixels: int | None) -> None:
    """Evaluate the best weights, at their size, on the test split, or on the val split where there is none."""
    run, console = session.run, session.console
    if session.final_evaluator is None:
        figure = WORDS[LEADING[session.engine.objective.task][0]]
        console.say(f"All images were trained on, so no {figure} is known; the weights are those of the last epoch.")
        return
    evaluator = session.final_evaluator(
        stage_geometry(session.config.geometry, max_pixels, session.engine.model.stride)
    )
    split = str(evaluator.index.splits[0])
    evaluation = evaluator.evaluate(console.progress(f"evaluating {split}"))
    if session.is_main:
        with run.writing(run.evaluation):
            write_evaluation(run.evaluation, evaluation, evaluator.index)
        row: dict[str, Any] = {"kind": "final", "step": state.step, "epoch": float(state.epoch), **size_of(max_pixels)}
        run.append_metrics(row | {"time_s": state.time_s, "split": split} | evaluation.to_row())
        if max_pixels is not None:
            console.say(
                f"The weights do best on pictures of at most {size_text(max_pixels)} (--max-pixels {max_pixels}): "
                "evaluation and prediction shrink larger ones to that."
            )
        chosen = best_of_several(run.read_evals(), split, sizes=session.config.resolution.chooses)
        weights = "weights best on val" if session.epochs.stages[-1].validation else "last epoch's weights"
        console.say(
            f"With the {weights}, {evaluation.num_images} {split} images: {evaluation.describe()}."
            + (f" {chosen.words}" if chosen else "")
        )
