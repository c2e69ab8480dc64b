"""Cross-validation: a folder with a run for each fold, and what they reached together."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final, Literal

from msgspec import Struct, to_builtins

from unsquare.errors import RunError
from unsquare.files import partial_of, write_text
from unsquare.runs.folder import RunFolder
from unsquare.runs.reading import reason, with_checksum
from unsquare.runs.schemas import Count, EvaluationRow, FinalRow, Positive, Share
from unsquare.runs.selection import best_of

FOLDS_VERSION: Final = 1
SUMMARY, PAGE = "folds.json", "report.html"
_FOLD = re.compile(r"fold-[1-9]\d*")


class FoldScores(Struct, frozen=True, kw_only=True):
    """What a run reached on some images."""

    accuracy: Share
    mean_per_class_accuracy: Share
    num_images: Positive


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

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.standard_deviation:.3f}"


class CrossValidation(Struct, frozen=True, kw_only=True):
    """What all folds reached: the content of `folds.json`.

    Example:
        >>> settings = dict(backbone="test_resnet", epochs=1, accelerator="cpu", budget_pixels=20_000)
        >>> found = unsquare.cross_validate("photos", "runs/folds", folds=2, quiet=True, **settings)
        >>> found.folds[0].last.num_images
        5
        >>> found.accuracy.standard_deviation >= 0
        True
    """

    version: Literal[1] = FOLDS_VERSION
    folds: tuple[FoldRow, ...]
    accuracy: MeanAndSpread
    """Of the last epoch, on the images that each fold holds out."""
    mean_per_class_accuracy: MeanAndSpread
    best_accuracy: MeanAndSpread
    """Of each fold's best epoch: optimistic."""
    test_accuracy: MeanAndSpread | None = None
    num_images: Count
    """Images that judged, each once."""
    num_right: Count
    """Of these, those that the last epoch of their fold got right."""

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
    tests = [row.test.accuracy for row in rows if row.test is not None]
    return CrossValidation(
        folds=rows,
        accuracy=_over(last, lambda scores: scores.accuracy),
        mean_per_class_accuracy=_over(last, lambda scores: scores.mean_per_class_accuracy),
        best_accuracy=_over([row.best for row in rows], lambda scores: scores.accuracy),
        test_accuracy=_spread(tests) if len(tests) == folds else None,
        num_images=sum(scores.num_images for scores in last),
        num_right=sum(round(scores.accuracy * scores.num_images) for scores in last),
    )


def write_summary(folder: Path, found: CrossValidation) -> None:
    """Write `folds.json` atomically, with a checksum."""
    try:
        write_text(folder / SUMMARY, with_checksum(json.dumps(found.to_dict(), indent=1)) + "\n")
    except OSError as error:
        raise RunError(f"{folder / SUMMARY} cannot be written ({reason(error)}); free space or fix that.") from error


def _row(folder: Path, fold: int) -> FoldRow:
    path = fold_path(folder, fold)
    run = RunFolder(path)
    evals = run.read_evals()
    best = best_of(evals)
    if best is None:
        raise RunError(f"{run.metrics} lacks the evaluations of its fold; remove {path} and give the command again.")
    final = [row.values for row in run.read_metrics().rows if isinstance(row.values, FinalRow)]
    test = next((row for row in reversed(final) if row.split == "test"), None)
    return FoldRow(
        fold=fold,
        run=path.name,
        last=_scores(evals[-1]),
        best=_scores(best),
        best_epoch=best.epoch,
        test=None if test is None else _scores(test),
    )


def _scores(row: EvaluationRow) -> FoldScores:
    return FoldScores(
        accuracy=row.accuracy, mean_per_class_accuracy=row.mean_per_class_accuracy, num_images=row.num_images
    )


def _over(scores: list[FoldScores], figure: Callable[[FoldScores], float]) -> MeanAndSpread:
    return _spread([figure(each) for each in scores])


def _spread(values: list[float]) -> MeanAndSpread:
    return MeanAndSpread(mean=fmean(values), standard_deviation=stdev(values))
