"""What an evaluation measures: accuracy, and the mean of the classes' accuracies (MAMe's metric)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from unsquare.index.table import ShapeIndex
from unsquare.parquet import write_table
from unsquare.runs.per_class import ClassFigures, class_figures, confusion_matrix
from unsquare.runs.tables import EVALUATION

_NUMBERS = ("loss", "accuracy", "mean_per_class_accuracy", "num_images", "seconds")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The results of a network on images with labels.

    Example:
        >>> evaluation = unsquare.evaluate("runs/photos", "photos", split="val", quiet=True)
        >>> evaluation.predicted.shape
        (2,)
        >>> [(figures.name, figures.num_images) for figures in evaluation.per_class()]
        [('silk', 1), ('wool', 1)]
        >>> sorted(evaluation.to_dict())[:5]
        ['accuracy', 'caution', 'last_epoch', 'loss', 'mean_per_class_accuracy']
    """

    loss: float
    """Mean cross-entropy per image."""
    accuracy: float
    """Part of the images whose most probable class is their label."""
    mean_per_class_accuracy: float
    """Mean of the accuracies of all classes that occur."""
    num_images: int
    seconds: float
    predicted: npt.NDArray[np.int64]
    """(N,) most probable class of each image, without images that were left out."""
    probability: npt.NDArray[np.float64]
    """(N,) the probability of that class."""
    label_probability: npt.NDArray[np.float64]
    """(N,) the probability of each image's label."""
    images: ShapeIndex
    """The images, without those that were left out."""
    split: str = ""
    """Which images these are: train, val, test or all."""
    caution: str = ""
    """One sentence on why the figures are optimistic; empty where nothing makes them so."""
    last_epoch: Mapping[str, float] | None = None
    """Epoch, accuracy and mean per-class accuracy of the last epoch, where the best of several was chosen on these very
    images."""

    def per_class(self) -> tuple[ClassFigures, ...]:
        """The figures of each class that an image has, or that is predicted."""
        return class_figures(self.confusion(), self.images.classes)

    def confusion(self) -> npt.NDArray[np.int64]:
        """Images by label and predicted class, (C, C)."""
        return confusion_matrix(self.images.labels, self.predicted, len(self.images.classes))

    def to_row(self) -> dict[str, float]:
        """The numbers, as in a row of the metrics."""
        return {name: getattr(self, name) for name in _NUMBERS}

    def to_dict(self) -> dict[str, Any]:
        """The figures, in all and by class, ready for JSON."""
        told = {
            "split": self.split,
            "optimistic": bool(self.caution),
            "caution": self.caution,
            "last_epoch": None if self.last_epoch is None else dict(self.last_epoch),
            "per_class": [asdict(figures) for figures in self.per_class()],
        }
        return self.to_row() | told


def summarize(outcome: torch.Tensor, images: ShapeIndex, seconds: float) -> Evaluation:
    """An evaluation of images from each one's (loss, predicted class, probability), (N, 3) fp64."""
    loss, predicted, probability = outcome.unbind(1)
    target = torch.from_numpy(images.labels.astype(np.int64))
    # Not average="macro", which counts a class that no image has, but that is predicted, as wrong.
    per_class = multiclass_accuracy(predicted.long(), target, len(images.classes), average="none")[target.unique()]
    return Evaluation(
        loss=float(loss.mean()),
        accuracy=float((predicted.long() == target).double().mean()),
        mean_per_class_accuracy=float(per_class.double().mean()),
        num_images=len(target),
        seconds=seconds,
        predicted=predicted.long().numpy(),
        probability=probability.numpy(),
        label_probability=(-loss).exp().numpy(),
        images=images,
    )


def write_evaluation(path: Path, evaluation: Evaluation, index: ShapeIndex) -> None:
    """Write a row per image: key, label, predicted, probability, height, width."""
    classes = np.array(index.classes, dtype=object)
    table = pa.table(
        {
            "key": pa.array(index.keys, pa.string()),
            "label": pa.array(classes[index.labels], pa.string()),
            "predicted": pa.array(classes[evaluation.predicted], pa.string()),
            "probability": pa.array(evaluation.probability, pa.float64()),
            "height": pa.array(index.sizes[:, 0], pa.int64()),
            "width": pa.array(index.sizes[:, 1], pa.int64()),
        },
        schema=EVALUATION,
    )
    write_table(path, table)
