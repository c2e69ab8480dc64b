"""What a network's outputs are trained to be: each image's loss, its score in a step, and what its outputs predict.

The arithmetic of a task is here and nowhere else, so that engine, loop and evaluation are the same for all of them.
Values are learned in standard deviations from their mean over the training images, since learning rates that suit
classes suit only numbers near 1; the mean and the deviation follow from the run's index, so no checkpoint needs them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from unsquare.index.table import ShapeIndex, Task
from unsquare.network.config import OptimizerConfig
from unsquare.plan.draw import class_weights


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of a task, and its inverse: from outputs to probabilities or values."""

    task: Task = "classification"
    label_smoothing: float = 0.0
    """Of classes and labels; a regression has none."""
    focal: float = 0.0
    """Exponent of the focal loss of classes and labels; 0 is none."""
    weights: tuple[float, ...] | None = None
    """Of each class, in a classification; None weighs all alike."""
    mean: float = 0.0
    """Of a regression's values over the training images."""
    std: float = 1.0

    @property
    def score_name(self) -> str:
        """What the mean score of images is called."""
        return "mae" if self.task == "regression" else "accuracy"

    @classmethod
    def of(cls, index: ShapeIndex, config: OptimizerConfig) -> Objective:
        """The objective for a run's index; its training images give the scale of values, and the weights of classes."""
        trained = index.splits == "train"
        if index.task == "regression":
            assert index.targets is not None
            values = index.targets[trained]
            return cls(task=index.task, mean=float(values.mean()), std=float(values.std()))
        weights = None
        if config.class_weights == "balanced" and index.task == "classification":
            by_class, labels = np.ones(len(index.classes)), index.labels[trained]
            by_class[labels] = class_weights(labels)  # images of a class have the same
            weights = tuple(by_class.tolist())
        smoothing = config.label_smoothing or 0.0
        return cls(task=index.task, label_smoothing=smoothing, focal=config.focal, weights=weights)

    def encoded(self, labels: torch.Tensor) -> torch.Tensor:
        """What `losses` compares outputs with: classes (N,) as they are, labels (N, K), scaled values (N, 1)."""
        if self.task == "classification":
            return labels
        # Subtracted in fp64: fp32 would lose what values far from zero differ in.
        return ((labels - self.mean) / self.std).float()

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Each image's loss, (N,), of outputs (N, K) and encoded targets.

        Cross-entropy of classes; binary cross-entropy of labels, averaged over them; smooth L1 of values, in standard
        deviations, so that a wrong value does not outweigh the others (Girshick, Fast R-CNN, 2015, section 2.3).
        """
        if self.task == "regression":
            return F.smooth_l1_loss(outputs, targets, reduction="none").mean(1)
        if self.task == "multilabel":
            smooth = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
            entropies = F.binary_cross_entropy_with_logits(outputs, smooth, reduction="none")
            if self.focal:
                own = -F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
                entropies = _focused(entropies, own, self.focal)
            return entropies.mean(1)
        losses = F.cross_entropy(outputs, targets, reduction="none", label_smoothing=self.label_smoothing)
        if self.focal:
            losses = _focused(losses, -F.cross_entropy(outputs, targets, reduction="none"), self.focal)
        if self.weights is not None:
            # Not by F.cross_entropy, which weighs the part that smoothing gives to other classes by their weights.
            losses = losses * outputs.new_tensor(self.weights)[targets]
        return losses

    def scores(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """How well each image is predicted, (N,): whether its class is right, the part of its labels that are, or how
        far its value is from the true one."""
        if self.task == "classification":
            return (outputs.argmax(1) == targets).float()
        if self.task == "regression":
            return (outputs - targets).abs().mean(1) * self.std
        return ((outputs >= 0) == (targets >= 0.5)).float().mean(1)

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """Probabilities of classes or labels, or values in their own unit, (N, K) fp64 on the host."""
        outputs = outputs.cpu().double()
        if self.task == "classification":
            return outputs.softmax(1)
        return outputs * self.std + self.mean if self.task == "regression" else outputs.sigmoid()

    def losses_of(self, predictions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Each image's loss, (N,) fp64, of predictions (N, K) and labels as they are, without label smoothing."""
        if self.task == "classification":
            return -predictions.gather(1, labels[:, None])[:, 0].clamp_min(1e-300).log()
        if self.task == "regression":
            return F.smooth_l1_loss(predictions / self.std, labels / self.std, reduction="none").mean(1)
        return F.binary_cross_entropy(predictions, labels, reduction="none").mean(1)

    def no_labels(self, images: int, num_outputs: int) -> torch.Tensor:
        """Labels of images that have none, for probes."""
        if self.task == "classification":
            return torch.zeros(images, dtype=torch.int64)
        return torch.zeros(images, num_outputs, dtype=torch.float64)


def _focused(losses: torch.Tensor, own: torch.Tensor, gamma: float) -> torch.Tensor:
    """The focal loss: (1 - p)^gamma times the cross-entropy, `own` being the logarithm of the true answer's probability
    p (Lin et al., Focal Loss for Dense Object Detection, 2017, section 3.2)."""
    # Not zero, where the gradient of a power below 1 is infinite.
    wrong = (-own.expm1()).clamp_min(torch.finfo(own.dtype).eps)
    return wrong**gamma * losses
