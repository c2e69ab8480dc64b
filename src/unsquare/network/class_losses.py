"""The loss of each image of a classification: cross-entropy, weighted by class, and focused on what is hard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from unsquare.network.config import OptimizerConfig
from unsquare.plan.draw import class_weights


@dataclass(frozen=True, kw_only=True)
class ClassLoss:
    """What the loss of an image depends on besides its logits and its class."""

    label_smoothing: float = 0.0
    gamma: float = 0.0
    """Exponent of the focal loss; 0 is none."""
    weights: tuple[float, ...] | None = None
    """Of each class; None weighs all alike."""

    @classmethod
    def of(cls, config: OptimizerConfig, labels: npt.NDArray[np.int32], num_classes: int) -> ClassLoss:
        """The loss that the settings ask for.

        Args:
            config: the settings.
            labels: class of each training image, (N,).
            num_classes: number of logits.
        """
        weights = None
        if config.class_weights == "balanced":
            by_class = np.ones(num_classes)
            by_class[labels] = class_weights(labels)  # images of a class have the same
            weights = tuple(by_class.tolist())
        return cls(label_smoothing=config.label_smoothing or 0.0, gamma=config.focal, weights=weights)


def class_losses(logits: torch.Tensor, labels: torch.Tensor, loss: ClassLoss) -> torch.Tensor:
    """Each image's loss, (N,), of logits (N, K) and classes (N,).

    The focal loss is (1 - p)^gamma times the cross-entropy, p being the probability of the image's own class (Lin et
    al., Focal Loss for Dense Object Detection, 2017, section 3.2; there for two classes).
    """
    losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=loss.label_smoothing)
    if loss.gamma:
        own = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
        # Not zero, where the gradient of a power below 1 is infinite.
        wrong = (-own.expm1()).clamp_min(torch.finfo(logits.dtype).eps)
        losses = wrong**loss.gamma * losses
    if loss.weights is not None:
        # Not by F.cross_entropy, which weighs the part that smoothing gives to other classes by their weights.
        losses = losses * logits.new_tensor(loss.weights)[labels]
    return losses
