"""What a network's outputs are trained to be: each image's loss, its score in a step, and what its outputs predict.

The arithmetic of a task is here and nowhere else, so that engine, loop and evaluation are the same for all of them.
Values are learned in standard deviations from their mean over the training images, since learning rates that suit
classes suit only numbers near 1; the mean and the deviation follow from the run's index, so no checkpoint needs them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from unsquare.index.table import ShapeIndex, Task


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of a task, and its inverse: from outputs to probabilities or values."""

    task: Task = "classification"
    label_smoothing: float = 0.0
    """Of classes and labels; a regression has none."""
    mean: float = 0.0
    """Of a regression's values over the training images."""
    std: float = 1.0

    @property
    def score_name(self) -> str:
        """What the mean score of images is called."""
        return "mae" if self.task == "regression" else "accuracy"

    @classmethod
    def of(cls, index: ShapeIndex, label_smoothing: float | None = None) -> Objective:
        """The objective for a run's index; its training images give the scale of values."""
        if index.task != "regression":
            return cls(task=index.task, label_smoothing=label_smoothing or 0.0)
        assert index.targets is not None
        values = index.targets[index.splits == "train"]
        return cls(task=index.task, mean=float(values.mean()), std=float(values.std()))

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
        if self.task == "classification":
            return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=self.label_smoothing)
        if self.task == "regression":
            return F.smooth_l1_loss(outputs, targets, reduction="none").mean(1)
        smooth = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(outputs, smooth, reduction="none").mean(1)

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
