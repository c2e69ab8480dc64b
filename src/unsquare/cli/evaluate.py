"""`unsquare evaluate`: a run's accuracy on pictures with labels, in all and by class."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unsquare.cli.arguments import EvaluateArguments
from unsquare.cli.output import print_json
from unsquare.index.table import shown
from unsquare.runs.per_class import ClassFigures
from unsquare.training.metrics import Evaluation
from unsquare.training.outcome import write_outcome
from unsquare.training.predictor import Predictor

_MOST_CLASSES = 50
"""Rows of the table of classes; --json and --out list all."""


def run(given: EvaluateArguments) -> int:
    """Run the command."""
    predictor = Predictor(given.run, **given.device.given())
    evaluation = predictor.evaluate(given.source, given.split, skip_bad=given.skip_bad)
    if not predictor.is_main:
        return 0
    written = write_outcome(given.out, evaluation) if given.out is not None else ()
    if given.json:
        print_json(evaluation.to_dict() | {"files": [str(path) for path in written]})
        return 0
    _print_classes(evaluation.per_class())
    print(_sentence(evaluation))
    if evaluation.caution:
        print(evaluation.caution)
    if written:
        print(f"{', '.join(path.name for path in written)} are in {given.out}.")
    return 0


def _sentence(evaluation: Evaluation) -> str:
    kind = "" if evaluation.split == "all" else f"{evaluation.split} "
    return (
        f"{evaluation.num_images:,} {kind}images: accuracy {evaluation.accuracy:.4f}, mean per class "
        f"{evaluation.mean_per_class_accuracy:.4f}, loss {evaluation.loss:.4f}, {evaluation.seconds:.1f} s"
    )


def _print_classes(classes: Sequence[ClassFigures]) -> None:
    """The table of classes; a figure that has no images to be of is left blank."""
    table = Table(box=None)
    for name in ("class", "images", "accuracy", "precision", "F1"):
        table.add_column(name, justify="left" if name == "class" else "right", overflow="fold")
    for each in classes[:_MOST_CLASSES]:
        shares = ("" if share is None else f"{share:.3f}" for share in (each.accuracy, each.precision, each.f1))
        table.add_row(Text(shown(each.name)), f"{each.num_images:,}", *shares)
    Console(highlight=False).print(table)
    if len(classes) > _MOST_CLASSES:
        print(f"and {len(classes) - _MOST_CLASSES:,} more classes; --out and --json list all.")
