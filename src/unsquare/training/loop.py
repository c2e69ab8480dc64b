"""The training loop over planned steps: load, accumulate, reduce, update, record, save.

A step is a pure function of the weights before it and the run's settings: the plan is drawn from seed and epoch,
augmentation from seed, epoch and image, dropout from seed and step. A run that was killed therefore resumes from its
last checkpoint with the same losses, and no other state needs to be saved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from unsquare.capacity.limits import tidy_heap
from unsquare.capacity.recovery import Ceiling, Recovered, Recovery
from unsquare.data.loader import BatchLoader, PaddedBatch
from unsquare.errors import RunError, UnsquareError
from unsquare.memory.watch import Watch
from unsquare.network.engine import Engine
from unsquare.network.ranks import from_first
from unsquare.plan.epoch import Step
from unsquare.runs.checkpoints import BEST
from unsquare.runs.folder import RunFolder
from unsquare.runs.memory_profile import RunLimits
from unsquare.runs.schemas import Origin
from unsquare.runs.tables import write_memory
from unsquare.shapes import Geometry, Shape
from unsquare.training import checkpoint
from unsquare.training.checkpoint import TrainState
from unsquare.training.config import TrainConfig
from unsquare.training.console import Console
from unsquare.training.early_stopping import early_words, ran_out
from unsquare.training.epochs import Epochs, TrainingStage
from unsquare.training.evaluate import Evaluator
from unsquare.training.interrupt import StopRequest
from unsquare.training.metrics import Evaluation
from unsquare.training.resolution import bound_of, size_text
from unsquare.training.schedule import learning_rates
from unsquare.training.sizes import SizeSearch

LoadedBatches = Generator[PaddedBatch, None, None]


@dataclass(frozen=True, kw_only=True)
class Session:
    """Everything a run works with: its files, the network, the pictures of each split, and the console."""

    run: RunFolder
    origin: Origin
    config: TrainConfig
    engine: Engine
    limits: RunLimits
    recovery: Recovery
    epochs: Epochs
    loader: Callable[[Geometry], BatchLoader]
    """Makes the loader of training pictures of a size."""
    sizes: SizeSearch | None
    """Finds the size at which weights do best; None where there are no stages, or nothing is held out."""
    final_evaluator: Callable[[Geometry], Evaluator] | None
    """Makes the last evaluation's evaluator: on the test split, else on the val split; None where there is neither."""
    watch: Watch
    console: Console

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the run's files."""
        return self.engine.fabric.is_global_zero

    def write_memory(self) -> None:
        """Write the trace of the memory so far."""
        with self.run.writing(self.run.memory):
            write_memory(self.run.memory, self.watch.samples())


@dataclass
class _Tally:
    """The sums of a step over its micro-batches, then over the ranks."""

    loss: float = 0.0
    score: float = 0.0
    data_wait_s: float = 0.0
    shortages: float = 0.0
    stop: float = 0.0
    failed: float = 0.0

    def reduce(self, engine: Engine) -> _Tally:
        values = torch.tensor(list(vars(self).values()), dtype=torch.float64)
        return _Tally(*engine.sum_over_ranks(values).tolist())


class Stopped(Exception):
    """The run was stopped on request, and is saved.

    Example:
        >>> try:
        ...     run = unsquare.resume("runs/photos", quiet=True)
        ... except unsquare.Stopped as stop:  # by Ctrl-C: the same call continues the run
        ...     print(f"stopped after step {stop.step}")
        >>> print(run)
        runs/photos
    """

    def __init__(self, signal_number: int, step: int) -> None:
        self.signal_number = signal_number
        self.step = step
        super().__init__(f"stopped after step {step}")


def run_epochs(session: Session, state: TrainState) -> TrainState:
    """Train from `state` to the last epoch, or to where patience ends.

    Raises:
        Stopped: a signal requested it; the run is saved.
        UnsquareError: a problem that the user can fix; the run is saved.
    """
    config = session.config
    with StopRequest() as request:
        while state.epoch < config.epochs and not ran_out(config.saving, state):
            state = _run_epoch(session, state, state.epoch, request)
            session = replace(session, epochs=session.epochs.not_above(state))
    if state.epoch < config.epochs:
        session.console.say(f"Ended {early_words(config, state.epoch)}.")
    return state


def _run_epoch(session: Session, state: TrainState, epoch: int, request: StopRequest) -> TrainState:
    config, engine = session.config, session.engine
    engine.start_epoch(epoch)
    if epoch == config.optimizer.thaw_after:
        session.console.say(f"From epoch {epoch + 1} on, what was frozen trains as well.")
    stage = session.epochs.stages[epoch]
    if state.step_of_epoch == 0:
        state = replace(state, planned_pixels=state.ceiling_pixels, max_pixels=stage.max_pixels)
    plan = session.epochs.plan(epoch, state.planned_pixels)
    rates = learning_rates(config.learning_rate, plan.images_per_step.tolist(), epoch, config.epochs)
    rank = engine.fabric.global_rank
    remaining = plan.steps[state.step_of_epoch :]
    loader = session.loader(stage.geometry)
    batches = loader.load(plan, (each for step in remaining for each in step.ranks[rank]))
    saved = time.perf_counter()
    at = size_text(stage.max_pixels) if config.resolution.chooses else ""
    session.console.start_epoch(epoch, config.epochs, len(plan.steps), state.step_of_epoch, at)
    try:
        for position in range(state.step_of_epoch, len(plan.steps)):
            step = plan.steps[position]
            row, stop, ceiling = _run_step(session, state, step, batches, rates[position], request)
            state = replace(
                state,
                step=state.step + 1,
                step_of_epoch=position + 1,
                time_s=session.watch.now_s(),
                ceiling_pixels=ceiling.pixels,
                ceiling_steps=ceiling.quiet_steps,
            )
            row["real_pixels"] = int(plan.sizes[_images(step)].prod(axis=1).sum())
            row |= {"epoch": epoch + (position + 1) / len(plan.steps), "time_s": state.time_s}
            if session.is_main:
                session.run.append_metrics({"kind": "step", "step": state.step, **row})
            session.console.finish_step(row)
            if stop:
                save(session, state)
                raise Stopped(request.signal_number, state.step)
            if position + 1 < len(plan.steps) and _is_due(session, state, time.perf_counter() - saved):
                save(session, state)
                saved = time.perf_counter()
    finally:
        batches.close()
        loader.close()
    state = replace(state, epoch=epoch + 1, step_of_epoch=0)
    state = _validate(session, state)
    save(session, state)
    return state


def _is_due(session: Session, state: TrainState, seconds: float) -> bool:
    saving = session.config.saving
    by_step = saving.checkpoint_every_steps and state.step % saving.checkpoint_every_steps == 0
    # Ranks' clocks differ, but all must save at the same step: the first rank decides.
    by_clock = session.engine.sum_over_ranks(
        torch.tensor([float(session.is_main and seconds > saving.checkpoint_every_s)])
    )
    return bool(by_step or by_clock.item())


def _run_step(
    session: Session,
    state: TrainState,
    step: Step,
    batches: LoadedBatches,
    learning_rate: float,
    request: StopRequest,
) -> tuple[dict[str, Any], bool, Ceiling]:
    """One optimizer update over all ranks: a row of the metrics, whether any rank was asked to stop, the ceiling."""
    engine = session.engine
    started = time.perf_counter()
    own, done = _Tally(), Recovered(state.ceiling_pixels)
    error: UnsquareError | None = None
    try:
        own.data_wait_s = accumulate(session, state, step, batches, done)
    except UnsquareError as caught:
        error, own.failed = caught, 1.0
    own.loss, own.score, own.shortages = done.loss, done.score, done.shortages
    own.stop = float(request.signal_number != 0)
    tally = own.reduce(engine)
    if not math.isfinite(tally.loss) and not tally.failed:
        tally.failed = 1.0
        error = RunError(f"The loss is {tally.loss} at step {state.step + 1}; start a new run with a lower --lr.")
    if tally.failed:  # on any rank: no rank takes the step, and the state is that after the last one
        engine.forget_gradients()
        save(session, state)
        raise error or RunError("Another rank stopped the run; its message says why.")
    ceiling = Ceiling(state.ceiling_pixels, state.ceiling_steps).after(
        engine.min_over_ranks(done.ceiling_pixels) if tally.shortages else state.ceiling_pixels,
        int(tally.shortages),
        session.epochs.limits.budget_pixels,
    )
    engine.reduce_gradients()
    norm = engine.update(learning_rate, state.step + 1)
    tidy_heap(session.limits)
    micro_batches = step.micro_batches
    row = {
        "loss": tally.loss / step.num_images,
        engine.objective.score_name: tally.score / step.num_images,
        "learning_rate": learning_rate,
        "gradient_norm": norm if math.isfinite(norm) else None,
        "num_images": step.num_images,
        "num_micro_batches": len(micro_batches),
        "computed_pixels": sum(each.computed_pixels for each in micro_batches),
        "data_wait_s": tally.data_wait_s / engine.fabric.world_size,
        "shortages": int(tally.shortages),
        "step_s": time.perf_counter() - started,
        "micro_batches": [[len(each.images), *each.canvas] for each in micro_batches],
        "measured": done.measured,
    }
    return row, bool(tally.stop), ceiling


def accumulate(session: Session, state: TrainState, step: Step, batches: LoadedBatches, done: Recovered) -> float:
    """Accumulate the gradient of this rank's micro-batches of a step in `done`; return the seconds spent waiting for
    data."""
    waited_s = 0.0
    rank = session.engine.fabric.global_rank
    before = sum(len(micro_batches) for micro_batches in step.ranks[:rank])
    for number, micro_batch in enumerate(step.ranks[rank], before):
        waiting = time.perf_counter()
        session.engine.phase = "data"
        batch = next(batches)
        waited_s += time.perf_counter() - waiting
        session.watch.mark(state.step + 1, len(micro_batch.images), micro_batch.canvas)
        torch.manual_seed(_seed(session.config.plan.seed, state.step, number))
        part = session.recovery.accumulate(batch, 1 / step.num_images, done.ceiling_pixels)
        if part.words and not done.words:
            session.console.say(part.words)
        done.add(part)
        session.watch.mark(state.step + 1, 0, Shape(0, 0))
    return waited_s


def _images(step: Step) -> npt.NDArray[np.int64]:
    return np.concatenate([micro_batch.images for micro_batch in step.micro_batches])


def _seed(*keys: int) -> int:
    """A seed for dropout and stochastic depth that depends only on the keys."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0])


def _validate(session: Session, state: TrainState) -> TrainState:
    """Evaluate on the val split where that is due, and keep the weights if they are the best so far."""
    epochs, every = session.config.epochs, session.config.saving.evaluate_every
    session.engine.average_buffers()
    stage, *later = session.epochs.stages[state.epoch - 1 :]
    if state.waits_from is None or any(each.geometry != stage.geometry for each in later):
        state = replace(state, waits_from=state.epoch)
    if state.epoch % every and state.epoch != epochs and not _may_stop_growing(session, stage, later):
        return state
    if stage.validation is None:
        session.console.finish_epoch(state.epoch, None)
        return state
    evaluation = stage.validation.evaluate(session.console.progress("validating"))
    if not math.isfinite(evaluation.loss):
        raise RunError(
            f"The loss on val is {evaluation.loss} after step {state.step}; start a new run with a lower --lr."
        )
    state = replace(state, time_s=session.watch.now_s())
    if session.is_main:
        row = {
            "kind": "eval",
            "step": state.step,
            "epoch": float(state.epoch),
            "time_s": state.time_s,
            "split": "val",
            **size_of(state.max_pixels),
        }
        session.run.append_metrics(row | evaluation.to_row())
    session.console.finish_epoch(state.epoch, evaluation)
    if _may_stop_growing(session, stage, later):
        state = _with_largest_size(session, state, evaluation)
    if _is_best(evaluation, state):
        waits_from = state.epoch if evaluation.score > state.best_score else state.waits_from
        state = replace(state, best_score=evaluation.score, best_loss=evaluation.loss, waits_from=waits_from)
        write(session, BEST, state)
    return state


def _may_stop_growing(session: Session, stage: TrainingStage, later: list[TrainingStage]) -> bool:
    """Whether larger pictures come next, and whether they do is decided here."""
    if session.sizes is None or session.config.resolution.grow != "while-better" or not later:
        return False
    return bound_of(later[0].geometry) > bound_of(stage.geometry)


def _with_largest_size(session: Session, state: TrainState, evaluation: Evaluation) -> TrainState:
    """The state in which later pictures have the size that is best now, if the weights do better below their own."""
    assert session.sizes is not None
    chosen = session.sizes.best(state.max_pixels, evaluation, only_smaller=True)
    grows = chosen.size is None or chosen.size == state.max_pixels
    if chosen.tried:
        then = "so pictures grow" if grows else f"so they grow no further than {size_text(chosen.size)}"
        session.console.say(f"On val {chosen.words}, {then} (--grow).")
    return state if grows else replace(state, largest_pixels=chosen.size)


def size_of(max_pixels: int | None) -> dict[str, int]:
    """The size of evaluated pictures as part of a row of the metrics; nothing at full size."""
    return {} if max_pixels is None else {"max_pixels": max_pixels}


def _is_best(evaluation: Evaluation, state: TrainState) -> bool:
    """Whether weights are the best so far, by the rule of `runs.selection.best_of`."""
    score, loss = evaluation.score, evaluation.loss
    is_tie = score == state.best_score
    return score > state.best_score or (is_tie and (state.best_loss is None or loss <= state.best_loss))


def save(session: Session, state: TrainState) -> None:
    """Write a checkpoint of the run's state, and delete old ones."""
    session.engine.average_buffers()
    write(session, f"step-{state.step}", state)
    if session.is_main:
        with session.run.writing(session.run.checkpoints):
            checkpoint.prune(session.run.checkpoints)
        session.write_memory()


def write(session: Session, name: str, state: TrainState) -> None:
    """Write a checkpoint under a name."""
    run, engine = session.run, session.engine

    def save_it() -> None:
        marked = run.mark_metrics()
        with run.writing(run.checkpoints / name):
            tensors = (engine.evaluated, engine.optimizer)
            unaveraged = None if engine.average is None else engine.model
            checkpoint.save(run.checkpoints, name, *tensors, state, session.origin, marked, unaveraged)

    from_first(engine.fabric, save_it)
