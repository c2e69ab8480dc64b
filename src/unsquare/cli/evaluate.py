"""`unsquare evaluate`: a run's figures on pictures with labels, in all and by class or label."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unsquare.cli.arguments import EvaluateArguments
from unsquare.cli.output import print_json
from unsquare.index.table import Task
from unsquare.index.text import shown
from unsquare.runs.per_class import ClassFigures
from unsquare.training.metrics import Evaluation
from unsquare.training.outcome import write_outcome
from unsquare.training.predictor import Predictor

_MOST_CLASSES = 50
"""Rows of the table of classes; --out and --json list all."""


def run(given: EvaluateArguments) -> int:
    """Run the command."""
    predictor = Predictor(given.run, **given.device.given())
    evaluation = predictor.evaluate(given.source, given.split, skip_bad=given.skip_bad)
    if not predictor.is_main:
        return 0
    written = write_outcome(given.out, evaluation, predictor.label_separator) if given.out is not None else ()
    if given.json:
        print_json(evaluation.to_dict() | {"files": [str(path) for path in written]})
        return 0
    _print_classes(evaluation.per_class(), evaluation.images.task)
    print(_sentence(evaluation))
    if evaluation.caution:
        print(evaluation.caution)
    if written:
        print(f"{', '.join(path.name for path in written)} {'is' if len(written) == 1 else 'are'} in {given.out}.")
    return 0


def _sentence(evaluation: Evaluation) -> str:
    kind = "" if evaluation.split == "all" else f"{evaluation.split} "
    return (
        f"{evaluation.num_images:,} {kind}images: {evaluation.describe(4)}, loss {evaluation.loss:.4f}, "
        f"{evaluation.seconds:.1f} s"
    )


_COLUMNS: dict[Task, tuple[str, ...]] = {
    "classification": ("class", "images", "accuracy", "precision", "F1"),
    "multilabel": ("label", "images", "recall", "precision", "F1", "average precision"),
}


def _print_classes(classes: Sequence[ClassFigures], task: Task) -> None:
    """The table of classes or labels; a figure that has no images to be of is left blank."""
    if not classes:
        return
    table = Table(box=None)
    for at, name in enumerate(_COLUMNS[task]):
        table.add_column(name, justify="right" if at else "left", overflow="fold")
    for each in classes[:_MOST_CLASSES]:
        figures = (each.accuracy, each.precision, each.f1, each.average_precision)[: len(_COLUMNS[task]) - 2]
        shares = ("" if share is None else f"{share:.3f}" for share in figures)
        table.add_row(Text(shown(each.name)), f"{each.num_images:,}", *shares)
    Console(highlight=False).print(table)
    if len(classes) > _MOST_CLASSES:
        more = "classes" if task == "classification" else "labels"
        print(f"and {len(classes) - _MOST_CLASSES:,} more {more}; --out and --json list all.")
