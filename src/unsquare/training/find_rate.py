"""Runs a learning-rate range test: the steps of a run, at rates that rise from step to step until the loss diverges.

Network, pictures, plan and memory are prepared as for training, in a temporary folder, so that the rate found is for
the very steps of the run. Pictures have the size with which training begins.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

from unsquare.capacity.recovery import NO_CEILING, Recovered
from unsquare.errors import ConfigError
from unsquare.network.device import launch
from unsquare.runs.folder import RunFolder
from unsquare.runs.tables import read_index
from unsquare.training import setup
from unsquare.training.checkpoint import TrainState
from unsquare.training.config import TrainConfig
from unsquare.training.console import Console
from unsquare.training.loop import Session, accumulate
from unsquare.training.rate_test import RateTest, has_diverged, rate_test_of
from unsquare.training.setup import TrainingJob
from unsquare.training.start import begin


def find_rate(source: Path, config: TrainConfig, rates: list[float], *, quiet: bool = False) -> RateTest:
    """Train a step with each of the rates, until the loss diverges.

    Args:
        source: as for training.
        config: the settings of the run that the rate is for.
        rates: in rising order.
        quiet: print no progress.

    Raises:
        UnsquareError: a problem that the user can fix, as in training.
    """
    auto_precision = config.device.precision == "auto"
    fabric = launch(config.device)
    if fabric.world_size > 1:
        raise ConfigError(
            f"A learning-rate range test runs in one process, but {fabric.world_size} were started; its steps are "
            "those of any number."
        )
    device = replace(config.device, precision=setup.precision_name(fabric))
    config = replace(config, device=device, optimizer=replace(config.optimizer, ema=None))
    console = Console(quiet=quiet)
    with tempfile.TemporaryDirectory(prefix="unsquare-") as folder:
        run = RunFolder(Path(folder) / "run")
        run.claim()
        try:
            config, origin = begin(run, source, config, console)
            job = TrainingJob(run=run, config=config, fabric=fabric, console=console)
            session = setup.prepare(job, read_index(run.index), origin, auto_precision=auto_precision)
            return _tested(session, rates)
        finally:
            console.stop()
            run.unlock()


def _tested(session: Session, rates: list[float]) -> RateTest:
    progress = session.console.progress("raising the learning rate")
    losses: list[float] = []
    for loss in _losses(session, rates):
        losses.append(loss)
        if has_diverged(losses):
            break
        progress(len(losses), len(rates))
    return rate_test_of(rates, losses)


def _losses(session: Session, rates: list[float]) -> Iterator[float]:
    """The mean loss of each step, after which the network is trained at its rate."""
    engine, first = session.engine, session.epochs.stages[0]
    engine.start_epoch(0)
    done = 0
    for epoch in count():
        plan = replace(session.epochs, stages=(first,) * (epoch + 1)).plan(epoch)
        loader = session.loader(first.geometry)
        batches = loader.load(plan, (each for step in plan.steps for each in step.ranks[0]))
        try:
            for step in plan.steps:
                if done == len(rates):
                    return
                found = Recovered(NO_CEILING)
                state = TrainState(step=done, epoch=epoch, step_of_epoch=0, time_s=0.0)
                accumulate(session, state, step, batches, found)
                engine.update(rates[done])
                done += 1
                yield found.loss / step.num_images
        finally:
            batches.close()
            loader.close()
