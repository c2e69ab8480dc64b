"""What an evaluation measures: accuracy, and the mean of the classes' accuracies (MAMe's metric)."""

from __future__ import annotations

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
from unsquare.runs.tables import EVALUATION


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The results of a network on images with labels.

    Example:
        >>> evaluation = unsquare.evaluate("runs/photos", "photos", split="val", quiet=True)
        >>> evaluation.predicted.shape
        (2,)
        >>> sorted(evaluation.to_dict())
        ['accuracy', 'loss', 'mean_per_class_accuracy', 'num_images', 'seconds']
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

    def to_dict(self) -> dict[str, Any]:
        """The numbers, without the images."""
        values = asdict(self)
        del values["predicted"], values["probability"]
        return values


def summarize(outcome: torch.Tensor, labels: npt.NDArray[np.int32], num_classes: int, seconds: float) -> Evaluation:
    """An evaluation from each image's (loss, predicted class, probability), (N, 3) fp64."""
    loss, predicted, probability = outcome.unbind(1)
    target = torch.from_numpy(labels.astype(np.int64))
    # Not average="macro", which counts a class that no image has, but that is predicted, as wrong.
    per_class = multiclass_accuracy(predicted.long(), target, num_classes, average="none")[target.unique()]
    return Evaluation(
        loss=float(loss.mean()),
        accuracy=float((predicted.long() == target).double().mean()),
        mean_per_class_accuracy=float(per_class.double().mean()),
        num_images=len(target),
        seconds=seconds,
        predicted=predicted.long().numpy(),
        probability=probability.numpy(),
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
