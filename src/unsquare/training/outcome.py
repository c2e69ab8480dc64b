"""What an evaluation leaves as files: predictions, confusion and per-class figures, as CSV that any tool reads."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from unsquare.errors import RunError
from unsquare.files import replacing
from unsquare.index.table import Task
from unsquare.training.metrics import Evaluation

PREDICTIONS, CONFUSION, PER_CLASS = "predictions.csv", "confusion.csv", "per_class.csv"
_CLASS_COLUMNS = ("class", "images", "predicted", "accuracy", "precision", "f1")
_LABEL_COLUMNS = ("label", "images", "predicted", "recall", "precision", "f1", "average_precision")


def write_outcome(folder: Path, evaluation: Evaluation, label_separator: str = ";") -> tuple[Path, ...]:
    """Write an evaluation's predictions, confusion and per-class figures into a folder, and return their paths.

    Only classes are confused with one another, and values have no figures by class. The folder is made if it is not
    there; files of these names in it are replaced.

    Args:
        folder: the folder.
        evaluation: what to write.
        label_separator: text between several labels of an image.

    Raises:
        RunError: they cannot be written.
    """
    task = evaluation.images.task
    predictions = _labels(evaluation, label_separator) if task == "multilabel" else _PREDICTIONS[task](evaluation)
    tables = [(PREDICTIONS, predictions)]
    if task == "classification":
        tables.append((CONFUSION, _confusion(evaluation)))
    if task != "regression":
        tables.append((PER_CLASS, _by(evaluation)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tuple(_write(folder / name, rows) for name, rows in tables)
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror}); give another folder with --out.") from error


def _write(path: Path, rows: Iterable[Sequence[object]]) -> Path:
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def _classes(evaluation: Evaluation) -> Iterator[Sequence[object]]:
    """A row per image; `label_probability` is how probable the network holds what is true."""
    yield "path", "split", "label", "predicted", "correct", "probability", "label_probability", "height", "width"
    images = evaluation.images
    classes, labels, predicted = images.classes, images.labels.tolist(), evaluation.predicted.tolist()
    columns = (evaluation.probability.tolist(), evaluation.label_probability.tolist(), images.sizes.tolist())
    for key, split, label, found, own, true, size in zip(images.keys, images.splits, labels, predicted, *columns):
        right = "yes" if label == found else "no"
        yield key, split, classes[label], classes[found], right, f"{own:.6g}", f"{true:.6g}", *size


def _labels(evaluation: Evaluation, separator: str) -> Iterator[Sequence[object]]:
    """A row per image, with a column for each label's probability."""
    images = evaluation.images
    assert images.targets is not None
    probabilities = (f"probability {name}" for name in images.classes)
    yield "path", "split", "labels", "predicted", "correct", *probabilities, "height", "width"
    names = np.array(images.classes, dtype=object)
    columns = (images.keys, images.splits, images.targets > 0, evaluation.predicted > 0)
    for key, split, true, found, shares, size in zip(*columns, evaluation.probability, images.sizes.tolist()):
        right = "yes" if np.array_equal(true, found) else "no"
        told = (separator.join(names[true]), separator.join(names[found]))
        yield key, split, *told, right, *(f"{p:.6g}" for p in shares), *size


def _values(evaluation: Evaluation) -> Iterator[Sequence[object]]:
    """A row per image."""
    yield "path", "split", "value", "predicted", "error", "height", "width"
    images = evaluation.images
    assert images.targets is not None
    columns = (images.targets[:, 0].tolist(), evaluation.predicted.tolist(), images.sizes.tolist())
    for key, split, true, found, size in zip(images.keys, images.splits, *columns):
        yield key, split, repr(true), f"{found:.9g}", f"{found - true:.6g}", *size


_PREDICTIONS: dict[Task, Callable[[Evaluation], Iterator[Sequence[object]]]] = {
    "classification": _classes,
    "regression": _values,
}


def _confusion(evaluation: Evaluation) -> Iterator[Sequence[object]]:
    """A row per true class, a column per predicted class."""
    classes = evaluation.images.classes
    yield "label", *classes
    for name, counts in zip(classes, evaluation.confusion().tolist()):
        yield name, *counts


def _by(evaluation: Evaluation) -> Iterator[Sequence[object]]:
    """A row per class or label; blank where a figure has no images to be of."""
    labels = evaluation.images.task == "multilabel"
    yield _LABEL_COLUMNS if labels else _CLASS_COLUMNS
    for each in evaluation.per_class():
        figures = (each.accuracy, each.precision, each.f1, *([each.average_precision] if labels else []))
        yield each.name, each.num_images, each.num_predicted, *("" if one is None else f"{one:.6g}" for one in figures)
