"""From a source of pictures to a trained run, and from a stopped run to its end.

One command does both: on the folder of a run that is not finished, `train` goes on with it. The first rank looks at the
folder, and all go by what it finds; what is wrong there is refused, or mended and said (`standing`).
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from unsquare.errors import RunError
from unsquare.files import replacing
from unsquare.index.table import ShapeIndex, printable
from unsquare.network.device import launch
from unsquare.network.ranks import barrier, from_first
from unsquare.runs.checkpoints import BEST, best_or_newest, sha256_of
from unsquare.runs.folder import RunFolder
from unsquare.runs.memory_profile import RunLimits
from unsquare.runs.origin import bounds_of, located, settings_of
from unsquare.runs.reading import DamagedFileError
from unsquare.runs.schemas import Origin
from unsquare.runs.tables import read_index, read_memory
from unsquare.training import checkpoint, setup
from unsquare.training.checkpoint import TrainState
from unsquare.training.config import TrainConfig, to_toml
from unsquare.training.console import Console
from unsquare.training.loop import Session, run_epochs, save, write
from unsquare.training.metrics import write_evaluation
from unsquare.training.recipes import DEFAULT, Recipe
from unsquare.training.setup import Job
from unsquare.training.standing import Standing, settings_of_run, settings_tree, standing_of


def train(
    source: Path | str,
    out: Path | str,
    config: TrainConfig | None = None,
    *,
    changed_pictures: bool = False,
    quiet: bool = False,
    recipe: Recipe = DEFAULT,
) -> Path:
    """Train a classifier on a source of pictures and evaluate it; go on where `out` holds this run already.

    Args:
        source: a folder of class folders, a manifest, MAMe's folder, or an index.
        out: the run folder: new, empty, or that of a run with the same source and settings.
        config: the settings; the defaults suit a first run.
        changed_pictures: where the run goes on, take pictures that were changed since it started as they are now.
        quiet: print nothing.
        recipe: how the network is made and images are batched; comparisons exchange it.

    Returns:
        The run folder.

    Raises:
        UnsquareError: something that the user can mend; before the first step, `out` is left as it was.
        Stopped: a signal stopped the run after a step; it is saved.
    """
    started = time.perf_counter()
    config = config or TrainConfig()
    if printable(str(out)) != str(out):
        raise RunError(f"A run folder's name must be UTF-8, but is '{printable(str(out))}'; give another with --out.")
    auto_precision = config.device.precision == "auto"
    fabric = launch(config.device)
    config = replace(config, device=replace(config.device, precision=setup.precision_name(fabric)))
    console = Console(quiet=quiet or not fabric.is_global_zero)
    run = RunFolder(Path(out))
    job = Job(run=run, config=config, fabric=fabric, console=console, recipe=recipe)

    def look() -> Standing | None:
        run.claim()
        return standing_of(run, config, console, source=Path(source), changed_pictures=changed_pictures)

    try:
        standing = from_first(fabric, look)
        if standing is not None:
            return _go_on(job, standing, started)
        try:
            origin = from_first(fabric, lambda: _begin(run, Path(source), config, console))
            barrier(fabric)
            index = read_index(run.index)
            session = setup.prepare(job, index, origin, auto_precision=auto_precision)
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
    """Go on with a run from its last checkpoint, as if it had never stopped.

    Args:
        path: the run folder.
        config: the settings; None takes the run's own, to which only epochs may be added.
        epochs: the passes over the training images in all, where there shall be more than the run was started with.
        changed_pictures: take pictures that were changed since the run started as they are now.
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
        return _go_on(Job(run=run, config=config, fabric=fabric, console=console), standing, started)
    finally:
        run.unlock()


def _begin(run: RunFolder, source: Path, config: TrainConfig, console: Console) -> Origin:
    """Write what is known of a new run: its index and its settings."""
    with run.writing(run.index):
        setup.trainable_index(source, config, console).write(run.index)
    run.write_config(to_toml(config))
    path, digest = located(source)
    return Origin(
        settings=settings_tree(config),
        bounds={},
        index_sha256=sha256_of(run.index),
        source=path,
        source_sha256=digest,
    )


def _go_on(job: Job, standing: Standing, started: float) -> Path:
    """Train from a checkpoint to the end."""
    run, config, fabric, console = job.run, job.config, job.fabric, job.console
    if standing.is_finished:
        if fabric.is_global_zero:
            _mend(run, config, standing)
        console.say(
            f"The run in {run.path} is finished, after {config.optimizer.epochs} epochs; more --epochs continue it."
        )
        return run.path
    before = RunLimits.from_dict(standing.origin.bounds)
    limits: RunLimits | None = before
    if before.world_size != fabric.world_size:
        if config.plan.steps == "b2b":
            raise RunError(
                f"In b2b the steps of an epoch depend on the number of processes, and {run.path} was started on "
                f"{before.world_size}, not {fabric.world_size}; resume it on as many."
            )
        limits = None  # mixed steps are the same on any number; each one's share of the memory is not
    session = setup.prepare(
        job, standing.index, standing.origin, limits, fresh=False, auto_precision=before.auto_precision
    )
    latest = run.checkpoints / standing.checkpoint
    checkpoint.load_model(latest, session.engine.model)
    state = checkpoint.load_training(latest, session.engine.optimizer)
    if session.is_main:
        _take_up(session, standing, state)
    console.say(f"Going on with {run.path} after step {state.step}.")
    epochs = config.optimizer.epochs
    if standing.epochs < epochs:
        console.say(
            f"It goes on to {epochs} epochs in place of {standing.epochs}; from here on the learning rate follows the "
            "schedule of the longer run."
        )
    if standing.best_score is not None:
        state = replace(state, best_score=standing.best_score)
        if standing.best_score >= 0:
            write(session, BEST, state)
    if session.origin != standing.saved_origin or standing.checkpoint == BEST:
        session = _save_anew(session, standing.index, state)
    return _finish(session, state, started)


def _mend(run: RunFolder, config: TrainConfig, standing: Standing) -> None:
    """Write the settings and bounds of a finished run again where the files are not what they were."""
    if settings_of(run, standing.saved_origin)[1]:
        run.write_config(to_toml(config))
    if bounds_of(run, standing.saved_origin)[1]:
        run.write_json(run.models, standing.origin.bounds)


def _take_up(session: Session, standing: Standing, state: TrainState) -> None:
    """Bring the files of the run to where its checkpoint stands."""
    run, console = session.run, session.console
    console.warn(run.keep_metrics_until(state.step, standing.metrics))
    run.write_config(to_toml(session.config))
    if run.memory.exists():
        try:
            session.watch.take_over(read_memory(run.memory).to_pydict(), state.time_s)
        except DamagedFileError as error:
            console.warn(f"{run.memory} cannot be read ({error.reason}), so the trace of the run's memory begins anew.")


def _save_anew(session: Session, index: ShapeIndex, state: TrainState) -> Session:
    """Save the checkpoint again with what the run is trained from now, before the index that it names."""
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
        best, words = from_first(session.engine.fabric, lambda: best_or_newest(run.checkpoints))
        if session.is_main:
            session.console.warn(words)
        checkpoint.load_model(best, session.engine.model)
        _evaluate_best(session, state)
        if session.is_main:
            session.write_memory()
    finally:
        session.console.stop()
        session.loader.close()
        session.watch.stop()
    return run.path


def _evaluate_best(session: Session, state: TrainState) -> None:
    """Evaluate the best weights on the test split, or on the val split where there is none."""
    run, console, split = session.run, session.console, str(session.judge.index.splits[0])
    evaluation = session.judge.evaluate(console.progress(f"evaluating {split}"))
    if session.is_main:
        with run.writing(run.evaluation):
            write_evaluation(run.evaluation, evaluation, session.judge.index)
        row: dict[str, Any] = {"kind": "final", "step": state.step, "epoch": float(state.epoch)}
        run.append_metrics(row | {"time_s": state.time_s, "split": split} | evaluation.to_dict())
    console.say(
        f"With the weights best on val, {evaluation.num_images} {split} images: accuracy "
        f"{evaluation.accuracy:.3f}, mean per class {evaluation.mean_per_class_accuracy:.3f}."
    )
