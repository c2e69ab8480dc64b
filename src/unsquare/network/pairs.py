"""The loss of pictures that mixup or cutmix made of two."""

from __future__ import annotations

from collections.abc import Callable

import torch

from unsquare.data.loader import PaddedBatch


def pair_losses(
    losses_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    logits: torch.Tensor,
    labels: torch.Tensor,
    batch: PaddedBatch,
) -> torch.Tensor:
    """The loss of each image, (N,): for its two labels, each weighted by its part of the picture.

    For cross-entropy this is the loss against the weighted labels; any other loss of a single label works, too.

    Args:
        losses_of: the loss of each image from logits and labels.
        logits: (N, num_classes).
        labels: those of the batch, on the device of the logits.
        batch: the micro-batch, with other labels where it was mixed.
    """
    losses = losses_of(logits, labels)
    if batch.other_labels is None or batch.label_weights is None:
        return losses
    others = losses_of(logits, batch.other_labels.to(logits.device))
    weights = batch.label_weights.to(losses.device, losses.dtype)
    return weights * losses + (1 - weights) * others
