"""Cross-validation: a folder with a run for each fold, and what they reached together."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final, Literal

from msgspec import Struct, to_builtins

from unsquare.errors import RunError
from unsquare.files import partial_of, write_text
from unsquare.index.table import Task
from unsquare.memory.model import Amount
from unsquare.runs.figures import LEADING, figure_text
from unsquare.runs.folder import RunFolder
from unsquare.runs.reading import reason, with_checksum
from unsquare.runs.rows import EvaluationRow, FinalRow
from unsquare.runs.schemas import Count, Positive
from unsquare.runs.selection import best_of

FOLDS_VERSION: Final = 1
SUMMARY, PAGE = "folds.json", "report.html"
_FOLD = re.compile(r"fold-[1-9]\d*")


class FoldScores(Struct, frozen=True, kw_only=True):
    """What a run reached on some images."""

    num_images: Positive
    figures: dict[str, Amount]
    """The leading figures of the run's task, by name: accuracy and mean_per_class_accuracy, mean_average_precision and
    f1_macro, or mae and rmse."""


class FoldRow(Struct, frozen=True, kw_only=True):
    """One fold: its run, and what that reached."""

    fold: Positive
    run: str
    """Name of the run folder."""
    last: FoldScores
    """The last epoch on the images that the fold holds out."""
    best: FoldScores
    """The best epoch on them: optimistic, as they chose it."""
    best_epoch: float
    test: FoldScores | None = None
    """The best epoch's weights on the test split; None without one."""


class MeanAndSpread(Struct, frozen=True, kw_only=True):
    """A figure over all folds."""

    mean: float
    standard_deviation: float
    """Of the folds, with n - 1; it tells how far a single split may be from the mean."""

    def text(self, name: str) -> str:
        """Mean and standard deviation of a figure of this name."""
        return f"{figure_text(name, self.mean)} ± {figure_text(name, self.standard_deviation)}"


class CrossValidation(Struct, frozen=True, kw_only=True):
    """What all folds reached: the content of `folds.json`.

    Example:
        >>> settings = dict(backbone="test_resnet", epochs=1, accelerator="cpu", budget_pixels=20_000)
        >>> found = unsquare.cross_validate("photos", "runs/folds", folds=2, quiet=True, **settings)
        >>> found.folds[0].last.num_images
        5
        >>> found.last["accuracy"].standard_deviation >= 0
        True
    """

    version: Literal[1] = FOLDS_VERSION
    task: Task = "classification"
    folds: tuple[FoldRow, ...]
    last: dict[str, MeanAndSpread]
    """The leading figures of the last epoch, by name, on the images that each fold holds out."""
    best: dict[str, MeanAndSpread]
    """Those of each fold's best epoch: optimistic."""
    test: dict[str, MeanAndSpread] | None = None
    """Those of each fold's best epoch on the test split; None without one."""
    num_images: Count
    """Images that judged, each once."""
    num_right: Count | None = None
    """Of these, those whose class the last epoch of their fold got right; None in other tasks."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values: dict[str, Any] = to_builtins(self)
        return values


def fold_path(folder: Path, fold: int) -> Path:
    """The run folder of a fold, from 1."""
    return folder / f"fold-{fold}"


def claim_folder(folder: Path) -> None:
    """Create the folder of all folds if needed; it must hold nothing else.

    Raises:
        RunError: it holds something else, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = [partial_of(entry) or entry.name for entry in folder.iterdir()]
    except OSError as error:
        raise RunError(f"The folder {folder} cannot be written ({reason(error)}); give another with --out.") from error
    if strange := [name for name in names if name not in (SUMMARY, PAGE) and not _FOLD.fullmatch(name)]:
        raise RunError(
            f"The folder of all folds must be empty, but {folder} holds {min(strange)!r}; give another with --out."
        )


def refuse_folds(folder: Path) -> None:
    """Refuse the folder of all folds where that of a run is needed.

    Raises:
        RunError: it is one.
    """
    if os.path.lexists(fold_path(folder, 1)):
        raise RunError(
            f"{folder} holds a run for each fold; give the command that started them again, or one of them, such as "
            f"{fold_path(folder, 1)}."
        )


def cross_validation(folder: Path, folds: int) -> CrossValidation:
    """What the finished runs of all folds reached.

    Raises:
        RunError: the metrics of a run lack its evaluations.
    """
    rows = tuple(_row(folder, fold) for fold in range(1, folds + 1))
    last = [row.last for row in rows]
    tests = [row.test for row in rows if row.test is not None]
    right = [round(each.figures["accuracy"] * each.num_images) for each in last if "accuracy" in each.figures]
    return CrossValidation(
        task=_evals(folder, 1)[-1].task,
        folds=rows,
        last=_spreads(last),
        best=_spreads([row.best for row in rows]),
        test=_spreads(tests) if len(tests) == folds else None,
        num_images=sum(scores.num_images for scores in last),
        num_right=sum(right) if right else None,
    )


def write_summary(folder: Path, found: CrossValidation) -> None:
    """Write `folds.json` atomically, with a checksum."""
    try:
        write_text(folder / SUMMARY, with_checksum(json.dumps(found.to_dict(), indent=1)) + "\n")
    except OSError as error:
        raise RunError(f"{folder / SUMMARY} cannot be written ({reason(error)}); free space or fix that.") from error


def _evals(folder: Path, fold: int) -> list[EvaluationRow]:
    """The evaluations of a fold in the course of training."""
    run = RunFolder(fold_path(folder, fold))
    if not (evals := run.read_evals()):
        raise RunError(
            f"{run.metrics} lacks the evaluations of its fold; remove {run.path} and give the command again."
        )
    return evals


def _row(folder: Path, fold: int) -> FoldRow:
    run, evals = RunFolder(fold_path(folder, fold)), _evals(folder, fold)
    best = best_of(evals)
    assert best is not None
    final = [row.values for row in run.read_metrics().rows if isinstance(row.values, FinalRow)]
    test = next((row for row in reversed(final) if row.split == "test"), None)
    return FoldRow(
        fold=fold,
        run=run.path.name,
        last=_scores(evals[-1]),
        best=_scores(best),
        best_epoch=best.epoch,
        test=None if test is None else _scores(test),
    )


def _scores(row: EvaluationRow) -> FoldScores:
    figures = {name: row.figures[name] for name in LEADING[row.task] if name in row.figures}
    return FoldScores(num_images=row.num_images, figures=figures)


def _spreads(scores: Sequence[FoldScores]) -> dict[str, MeanAndSpread]:
    """Mean and spread of each figure that all of them have."""
    names = [name for name in scores[0].figures if all(name in each.figures for each in scores)]
    return {name: _spread([each.figures[name] for each in scores]) for name in names}


def _spread(values: list[float]) -> MeanAndSpread:
    return MeanAndSpread(mean=fmean(values), standard_deviation=stdev(values))
