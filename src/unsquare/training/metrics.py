"""What an evaluation measures.

Of classes: accuracy, and the mean of the classes' accuracies (MAMe's metric). Of labels: mean average precision, and F1
at a probability of a half. Of values: mean absolute and root mean squared error, and R2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torchmetrics.functional.classification import binary_average_precision, binary_f1_score, multiclass_accuracy
from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error, r2_score

from unsquare.errors import ConfigError
from unsquare.index.table import ShapeIndex
from unsquare.network.losses import Objective
from unsquare.parquet import write_table
from unsquare.runs.figures import FIGURES, describe, score_of
from unsquare.runs.per_class import ClassFigures, class_figures, confusion_matrix, label_figures
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
        >>> [(figures.name, figures.num_images) for figures in evaluation.per_class()]
        [('silk', 1), ('wool', 1)]
        >>> sorted(evaluation.to_dict())[:5]
        ['accuracy', 'caution', 'last_epoch', 'loss', 'mean_per_class_accuracy']
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
    label_probability: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """(N,) the probability of each image's class; empty in other tasks."""
    images: ShapeIndex
    """The images, without those that were left out."""
    split: str = ""
    """Which images these are: train, val, test or all."""
    caution: str = ""
    """One sentence on why the figures are optimistic; empty where nothing makes them so."""
    last_epoch: Mapping[str, float] | None = None
    """Epoch and figures of the last epoch, where the best of several was chosen on these very images."""

    @property
    def score(self) -> float:
        """The figure that chooses the best weights, from 0 to 1, higher is better."""
        figures = self.to_row()
        return score_of(*map(figures.get, ("mean_per_class_accuracy", "mean_average_precision", "relative_mae")))

    def per_class(self) -> tuple[ClassFigures, ...]:
        """The figures of each class that an image has, or that is predicted, or of each such label; none of values."""
        images = self.images
        if images.targets is None:
            return class_figures(self.confusion(), images.classes)
        if images.task == "regression":
            return ()
        return label_figures(images.targets > 0, self.predicted > 0, self.probability, images.classes)

    def confusion(self) -> npt.NDArray[np.int64]:
        """Images by label and predicted class, (C, C).

        Raises:
            ConfigError: the run's task has no classes.
        """
        if self.images.targets is not None:
            raise ConfigError(
                f"Only classes are confused with one another, but the task is {self.images.task}; use per_class() or "
                "predicted."
            )
        return confusion_matrix(self.images.labels, self.predicted, len(self.images.classes))

    def to_row(self) -> dict[str, float]:
        """The numbers that the task has, as in a row of the metrics."""
        figures = {name: getattr(self, name) for name in FIGURES}
        known = {name: value for name, value in figures.items() if not math.isnan(value)}
        return {"loss": self.loss, **known, "num_images": self.num_images, "seconds": self.seconds}

    def to_dict(self) -> dict[str, Any]:
        """The figures, in all and by class or label, ready for JSON."""
        told = {
            "split": self.split,
            "optimistic": bool(self.caution),
            "caution": self.caution,
            "last_epoch": None if self.last_epoch is None else dict(self.last_epoch),
            "per_class": [figures.to_dict() for figures in self.per_class()],
        }
        return self.to_row() | told

    def describe(self, digits: int = 3) -> str:
        """The leading figures in words."""
        return describe(self.to_row(), digits)


def summarize(
    losses: torch.Tensor,
    predictions: torch.Tensor,
    images: ShapeIndex,
    seconds: float,
    objective: Objective | None = None,
) -> Evaluation:
    """An evaluation of images.

    Args:
        losses: of each image, (N,) fp64.
        predictions: probabilities or values, (N, K) fp64; for classes (N, 2): most probable class and its probability.
        images: the images, with their classes or targets.
        seconds: that it took.
        objective: the run's; None is that of classes.
    """
    objective = objective or Objective()
    if images.targets is None:
        figures = _classes(losses, predictions, images)
    else:
        measure = _labels if objective.task == "multilabel" else _values
        figures = measure(predictions, torch.from_numpy(images.targets), objective)
    return Evaluation(loss=float(losses.mean()), num_images=len(images), seconds=seconds, images=images, **figures)


def _classes(losses: torch.Tensor, outcome: torch.Tensor, images: ShapeIndex) -> dict[str, Any]:
    predicted, target = outcome[:, 0].long(), torch.from_numpy(images.labels.astype(np.int64))
    # Not average="macro", which counts a class that no image has, but that is predicted, as wrong.
    per_class = multiclass_accuracy(predicted, target, len(images.classes), average="none")[target.unique()]
    return {
        "accuracy": float((predicted == target).double().mean()),
        "mean_per_class_accuracy": float(per_class.double().mean()),
        "predicted": predicted.numpy(),
        "probability": outcome[:, 1].numpy(),
        "label_probability": (-losses).exp().numpy(),
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
