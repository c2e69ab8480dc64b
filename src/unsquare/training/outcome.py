"""What an evaluation leaves as files: predictions, confusion and per-class figures, as CSV that any tool reads."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from unsquare.errors import RunError
from unsquare.files import replacing
from unsquare.training.metrics import Evaluation

PREDICTIONS, CONFUSION, PER_CLASS = "predictions.csv", "confusion.csv", "per_class.csv"


def write_outcome(folder: Path, evaluation: Evaluation) -> tuple[Path, ...]:
    """Write an evaluation's predictions, confusion and per-class figures into a folder, and return their paths.

    The folder is made if it is not there; files of these names in it are replaced.

    Raises:
        RunError: they cannot be written.
    """
    tables = (
        (PREDICTIONS, _predictions(evaluation)),
        (CONFUSION, _confusion(evaluation)),
        (PER_CLASS, _by(evaluation)),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tuple(_write(folder / name, rows) for name, rows in tables)
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror}); give another folder with --out.") from error


def _write(path: Path, rows: Iterable[Sequence[object]]) -> Path:
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def _predictions(evaluation: Evaluation) -> Iterator[Sequence[object]]:
    """A row per image; `label_probability` is how probable the network holds what is true."""
    yield "path", "split", "label", "predicted", "correct", "probability", "label_probability", "height", "width"
    images = evaluation.images
    classes, labels, predicted = images.classes, images.labels.tolist(), evaluation.predicted.tolist()
    columns = (evaluation.probability.tolist(), evaluation.label_probability.tolist(), images.sizes.tolist())
    for key, split, label, found, own, true, size in zip(images.keys, images.splits, labels, predicted, *columns):
        right = "yes" if label == found else "no"
        yield key, split, classes[label], classes[found], right, f"{own:.6g}", f"{true:.6g}", *size


def _confusion(evaluation: Evaluation) -> Iterator[Sequence[object]]:
    """A row per true class, a column per predicted class."""
    classes = evaluation.images.classes
    yield "label", *classes
    for name, counts in zip(classes, evaluation.confusion().tolist()):
        yield name, *counts


def _by(evaluation: Evaluation) -> Iterator[Sequence[object]]:
    """A row per class; blank where a figure has no images to be of."""
    yield "class", "images", "predicted", "accuracy", "precision", "f1"
    for each in evaluation.per_class():
        shares = ("" if share is None else f"{share:.6g}" for share in (each.accuracy, each.precision, each.f1))
        yield each.name, each.num_images, each.num_predicted, *shares
