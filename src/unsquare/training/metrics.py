"""What an evaluation measures.

Of classes: accuracy, and the mean of the classes' accuracies (MAMe's metric). Of labels: mean average precision, and F1
at a probability of a half. Of values: mean absolute and root mean squared error, and R2.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torchmetrics.functional.classification import binary_average_precision, binary_f1_score, multiclass_accuracy
from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error, r2_score

from unsquare.index.table import ShapeIndex
from unsquare.network.losses import Objective
from unsquare.parquet import write_table
from unsquare.runs.schemas import score_of
from unsquare.runs.tables import EVALUATIONS

LIKELY = 0.5
"""Probability from which an image is said to have a label."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The results of a network on images with labels; figures that the run's task does not have are NaN.

    Example:
        >>> evaluation = unsquare.evaluate("runs/photos", "photos", split="val", quiet=True)
        >>> evaluation.predicted.shape
        (2,)
        >>> sorted(evaluation.to_dict())
        ['accuracy', 'loss', 'mean_per_class_accuracy', 'num_images', 'seconds']
    """

    loss: float
    """Mean loss per image: cross-entropy, binary cross-entropy averaged over the labels, or smooth L1 of values in
    standard deviations."""
    accuracy: float = math.nan
    """Part of the images whose most probable class is their label; for several labels, part of all decisions on one
    label of one image that are right."""
    mean_per_class_accuracy: float = math.nan
    """Mean of the accuracies of all classes that occur."""
    mean_average_precision: float = math.nan
    """Of labels: the mean of the average precisions of all labels that occur."""
    f1_macro: float = math.nan
    """Of labels: the mean of the F1 scores of all labels that occur, at a probability of a half."""
    f1_micro: float = math.nan
    """Of labels: the F1 score of all decisions together, at a probability of a half."""
    mae: float = math.nan
    """Of values: the mean absolute error, in their unit."""
    relative_mae: float = math.nan
    """The same in standard deviations of the training images' values."""
    rmse: float = math.nan
    """Of values: the root of the mean squared error, in their unit."""
    r2: float = math.nan
    """Of values: the part of their variance that is explained; NaN also where all true values are the same."""
    num_images: int
    seconds: float
    predicted: npt.NDArray[Any]
    """(N,) most probable class of each image, or its value, or (N, K) 0 or 1 for each label; without images that were
    left out."""
    probability: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """(N,) the probability of the most probable class, or (N, K) of each label; empty for values."""

    @property
    def score(self) -> float:
        """The figure that chooses the best weights, from 0 to 1, higher is better."""
        figures = self.to_dict()
        return score_of(*map(figures.get, ("mean_per_class_accuracy", "mean_average_precision", "relative_mae")))

    def to_dict(self) -> dict[str, Any]:
        """The numbers that the task has, without the images."""
        values = asdict(self)
        del values["predicted"], values["probability"]
        return {name: value for name, value in values.items() if name == "loss" or not math.isnan(value)}

    def describe(self, digits: int = 3) -> str:
        """The leading figures in words."""
        names = [name for name in _WORDS if not math.isnan(getattr(self, name))]
        shown = (f"{_WORDS[name]} {_number(getattr(self, name), name, digits)}" for name in names)
        return ", ".join(shown)


_WORDS = {
    "mean_average_precision": "mean average precision",
    "f1_macro": "F1 macro",
    "f1_micro": "micro",
    "accuracy": "accuracy",
    "mean_per_class_accuracy": "mean per class",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R2",
}


def _number(value: float, name: str, digits: int) -> str:
    """A figure; errors have the unit of the values, whose size may be any."""
    return f"{value:.{digits + 1}g}" if name in ("mae", "rmse") else f"{value:.{digits}f}"


def summarize(
    losses: torch.Tensor,
    predictions: torch.Tensor,
    labels: npt.NDArray[Any],
    seconds: float,
    objective: Objective | None = None,
) -> Evaluation:
    """An evaluation of images.

    Args:
        losses: of each image, (N,) fp64.
        predictions: probabilities or values, (N, K) fp64; for classes (N, 2): most probable class and its probability.
        labels: as in the index: classes (N,), or targets (N, K).
        seconds: that it took.
        objective: the run's; None is that of classes.
    """
    objective = objective or Objective()
    measure = {"classification": _classes, "multilabel": _labels, "regression": _values}[objective.task]
    figures = measure(predictions, torch.from_numpy(labels), objective)
    return Evaluation(loss=float(losses.mean()), num_images=len(labels), seconds=seconds, **figures)


def _classes(outcome: torch.Tensor, labels: torch.Tensor, objective: Objective) -> dict[str, Any]:
    predicted, target = outcome[:, 0].long(), labels.long()
    # Not average="macro", which counts a class that no image has, but that is predicted, as wrong.
    num_classes = int(torch.maximum(predicted, target).max()) + 1
    per_class = multiclass_accuracy(predicted, target, max(num_classes, 2), average="none")[target.unique()]
    return {
        "accuracy": float((predicted == target).double().mean()),
        "mean_per_class_accuracy": float(per_class.double().mean()),
        "predicted": predicted.numpy(),
        "probability": outcome[:, 1].numpy(),
    }


def _labels(probabilities: torch.Tensor, targets: torch.Tensor, objective: Objective) -> dict[str, Any]:
    target, predicted = targets.long(), (probabilities >= LIKELY).long()
    figures: dict[str, Any] = {"accuracy": float((predicted == target).double().mean())}
    # Of a label that no image has, neither precision nor recall is defined.
    if occurs := target.any(0).nonzero()[:, 0].tolist():
        precisions = [float(binary_average_precision(probabilities[:, at], target[:, at])) for at in occurs]
        f1 = [float(binary_f1_score(predicted[:, at], target[:, at])) for at in occurs]
        figures |= {
            "mean_average_precision": float(np.mean(precisions)),
            "f1_macro": float(np.mean(f1)),
            "f1_micro": float(binary_f1_score(predicted.flatten(), target.flatten())),
        }
    return {**figures, "predicted": predicted.numpy(), "probability": probabilities.numpy()}


def _values(predictions: torch.Tensor, targets: torch.Tensor, objective: Objective) -> dict[str, Any]:
    predicted, target = predictions[:, 0], targets[:, 0]
    error = float(mean_absolute_error(predicted, target))
    varies = len(target) > 1 and bool((target != target[0]).any())
    return {
        "mae": error,
        "relative_mae": error / objective.std,
        "rmse": float(mean_squared_error(predicted, target, squared=False)),
        "r2": float(r2_score(predicted, target)) if varies else math.nan,
        "predicted": predicted.numpy(),
    }


def write_evaluation(path: Path, evaluation: Evaluation, index: ShapeIndex) -> None:
    """Write a row per image: its key, what is true and predicted, its height and width."""
    names = np.array(index.classes, dtype=object)
    columns: dict[str, Any] = {
        "key": pa.array(index.keys, pa.string()),
        "height": pa.array(index.sizes[:, 0], pa.int64()),
        "width": pa.array(index.sizes[:, 1], pa.int64()),
    }
    if index.targets is None:
        columns["label"] = pa.array(names[index.labels], pa.string())
        columns["predicted"] = pa.array(names[evaluation.predicted], pa.string())
        columns["probability"] = pa.array(evaluation.probability, pa.float64())
    elif index.task == "multilabel":
        columns["labels"] = pa.array([names[row > 0].tolist() for row in index.targets], pa.list_(pa.string()))
        columns["predicted"] = pa.array(
            [names[row > 0].tolist() for row in evaluation.predicted], pa.list_(pa.string())
        )
        columns["probabilities"] = pa.array(list(evaluation.probability), pa.list_(pa.float64()))
    else:
        columns["value"] = pa.array(index.targets[:, 0], pa.float64())
        columns["predicted"] = pa.array(evaluation.predicted, pa.float64())
    schema = EVALUATIONS[index.task]
    write_table(path, pa.table({name: columns[name] for name in schema.names}, schema=schema))
