"""Cross-validation: a run for each fold, one after the other; the same command continues where they stopped.

Which fold a run holds out is one of its settings, so each is an ordinary run: resumed, evaluated and shown like any
other, and trained alone by `--fold`, say on another machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from unsquare.network.ranks import is_first
from unsquare.runs.folds import CrossValidation, claim_folder, cross_validation, fold_path, write_summary
from unsquare.training import start
from unsquare.training.config import TrainConfig


def train_folds(
    source: Path,
    out: Path,
    config: TrainConfig,
    folds: int,
    *,
    changed_pictures: bool = False,
    quiet: bool = False,
    finished: Callable[[Path], object] = lambda run: None,
) -> CrossValidation:
    """Train a run for each fold in `out`; those that are finished stay.

    Args:
        source: as for a single run.
        out: the folder of all runs.
        config: the settings of each.
        folds: how many there are.
        changed_pictures: as for a single run.
        quiet: print no progress.
        finished: called with each run folder.

    Raises:
        UnsquareError: a problem that the user can fix.
        Stopped: a signal stopped one of the runs; it is saved.
    """
    claim_folder(out)
    for fold in range(1, folds + 1):
        settings = replace(config, saving=replace(config.saving, folds=folds, fold=fold))
        run = start.train(source, fold_path(out, fold), settings, changed_pictures=changed_pictures, quiet=quiet)
        finished(run)
    found = cross_validation(out, folds)
    if is_first():
        write_summary(out, found)
    return found
