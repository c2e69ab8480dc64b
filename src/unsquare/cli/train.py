"""`unsquare train`: a folder of pictures in, a trained run out."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from unsquare.api import cross_validate, resume, train
from unsquare.cli.arguments import TrainArguments
from unsquare.errors import UsageError
from unsquare.network.ranks import is_first
from unsquare.runs.figures import LEADING, WORDS, figure_text
from unsquare.runs.folds import PAGE, SUMMARY, CrossValidation
from unsquare.training.loop import Stopped


def run(given: TrainArguments) -> int:
    """Run the command."""
    folder = given.resume or given.out
    try:
        if given.resume is not None:
            if given.source is not None or given.out is not None or given.config is not None:
                raise UsageError("--resume takes the run's own source and settings; leave out SOURCE, --out, --config.")
            folder = resume(given.resume, given.settings, changed_pictures=given.changed_pictures)
        else:
            if given.source is None or given.out is None:
                raise UsageError(f"Training needs a source and a run folder, as in `{given.EXAMPLE}`.")
            saving = given.settings.saving
            if saving.folds is not None and saving.fold is None:
                return _cross_validate(given, given.source, given.out, saving.folds)
            folder = train(given.source, given.out, given.settings, changed_pictures=given.changed_pictures)
        if is_first():
            print(f"The report is {folder / 'report.html'}.")
    except Stopped as stop:
        return _stopped(stop, f"`unsquare train --resume {folder}` continues")
    return 0


def _cross_validate(given: TrainArguments, source: Path, out: Path, folds: int) -> int:
    """Train all folds, and print what they reached."""
    try:
        found = cross_validate(source, out, given.settings, folds=folds, changed_pictures=given.changed_pictures)
    except Stopped as stop:
        return _stopped(stop, "the same command continues")
    if is_first():
        _print(found)
        print(f"The report is {out / PAGE}, the figures are in {out / SUMMARY}.")
    return 0


def _stopped(stop: Stopped, how: str) -> int:
    """Say how to continue; the status of a process that a signal ended."""
    if is_first():
        print(f"Stopped and saved after step {stop.step}; {how}.", file=sys.stderr)
    return 128 + (stop.signal_number or signal.SIGTERM)


def _print(found: CrossValidation) -> None:
    """The table of folds, with means and standard deviations in its last row."""
    table = Table(box=None)
    first, second = LEADING[found.task]
    names = ["fold", "images", f"{WORDS[first]}, last epoch", WORDS[second], "best epoch (optimistic)"]
    for name in (*names, *(["test"] if found.test else [])):
        table.add_column(name, justify="left" if name == "fold" else "right")
    for row in found.folds:
        cells = [(first, row.last), (second, row.last), (first, row.best)]
        cells += [(first, row.test)] if row.test is not None and found.test else []
        texts = (figure_text(name, scores.figures[name]) if name in scores.figures else "" for name, scores in cells)
        table.add_row(row.run, f"{row.last.num_images:,}", *texts)
    over = [(first, found.last), (second, found.last), (first, found.best)]
    over += [(first, found.test)] if found.test else []
    spreads = (figures[name].text(name) if name in figures else "" for name, figures in over)
    table.add_row("mean ± sd", f"{found.num_images:,}", *spreads)
    console = Console(highlight=False)
    console.print(table)
    if found.num_right is not None:
        part = figure_text("accuracy", found.num_right / found.num_images)
        console.print(f"Each image judged once: {found.num_right:,} of {found.num_images:,} are right, {part}.")
