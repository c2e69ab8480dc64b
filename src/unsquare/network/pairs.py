"""The loss of pictures that mixup or cutmix made of two."""

from __future__ import annotations

from collections.abc import Callable

import torch

from unsquare.data.loader import PaddedBatch


def pair_losses(
    losses_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], outputs: torch.Tensor, batch: PaddedBatch
) -> torch.Tensor:
    """The loss of each image, (N,): for its two labels, each weighted by its part of the picture.

    For cross-entropy this is the loss against the weighted labels, as it is for binary cross-entropy; any other loss
    works, too, such as that of values.

    Args:
        losses_of: the loss of each image from outputs and labels as in a batch.
        outputs: (N, num_classes).
        batch: the micro-batch, with other labels where it was mixed.
    """
    losses = losses_of(outputs, batch.labels)
    if batch.other_labels is None or batch.label_weights is None:
        return losses
    weights = batch.label_weights.to(losses.device, losses.dtype)
    return weights * losses + (1 - weights) * losses_of(outputs, batch.other_labels)
