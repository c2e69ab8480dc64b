"""The loss of mixed pictures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from unsquare.capacity.guard import halves
from unsquare.data.loader import PaddedBatch
from unsquare.network.losses import Objective
from unsquare.network.pairs import pair_losses


def batch_of(num_images: int, *, mixed: bool) -> PaddedBatch:
    """A micro-batch of which labels alone matter."""
    generator = torch.Generator().manual_seed(0)
    labels, others = torch.randint(5, (2, num_images), generator=generator)
    return PaddedBatch(
        pixels=torch.zeros(num_images, 3, 4, 4, dtype=torch.uint8),
        sizes=torch.full((num_images, 2), 4),
        labels=labels,
        images=torch.arange(num_images).numpy(),
        other_labels=others if mixed else None,
        label_weights=torch.rand(num_images, generator=generator) if mixed else None,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_cross_entropy_against_the_weighted_labels(smoothing: float) -> None:
    """Against soft labels made by hand, with label smoothing, too."""
    batch = batch_of(7, mixed=True)
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    weights = batch.label_weights[:, None]
    soft = weights * F.one_hot(batch.labels, 5) + (1 - weights) * F.one_hot(batch.other_labels, 5)

    def losses_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

    torch.testing.assert_close(pair_losses(losses_of, logits, batch), losses_of(logits, soft))


def test_halves_keep_their_pairs() -> None:
    """The losses of the halves are those of the whole; a micro-batch that is not mixed has those of its labels."""
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))

    def losses_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, labels, reduction="none")

    for mixed in (True, False):
        batch = batch_of(7, mixed=mixed)
        whole = pair_losses(losses_of, logits, batch)
        parts = [pair_losses(losses_of, logits[part.images], part) for part in halves(batch)]
        torch.testing.assert_close(torch.cat(parts), whole)
    torch.testing.assert_close(whole, losses_of(logits, batch.labels))


def test_labels_and_values_are_mixed_as_classes_are() -> None:
    """Of labels it is binary cross-entropy against the weighted labels; of values the weighted sum of both losses."""
    generator = torch.Generator().manual_seed(2)
    outputs, weights = torch.randn(7, 3, generator=generator), batch_of(7, mixed=True).label_weights
    own, other = torch.randint(2, (2, 7, 3), generator=generator).double()
    batch = replace(batch_of(7, mixed=True), labels=own, other_labels=other)
    of_labels = Objective(task="multilabel", label_smoothing=0.1)

    def losses_of(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return of_labels.losses(outputs, of_labels.encoded(labels))

    soft = weights[:, None] * own + (1 - weights[:, None]) * other
    torch.testing.assert_close(pair_losses(losses_of, outputs, batch), losses_of(outputs, soft))

    batch, values = replace(batch, labels=own[:, :1] + 5, other_labels=other[:, :1] + 5), outputs[:, :1]
    of_values = Objective(task="regression", mean=5.5, std=2.0)

    def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.smooth_l1_loss(outputs[:, 0], (labels[:, 0].float() - 5.5) / 2, reduction="none")

    expected = weights * loss(values, batch.labels) + (1 - weights) * loss(values, batch.other_labels)
    found = pair_losses(lambda out, labels: of_values.losses(out, of_values.encoded(labels)), values, batch)
    torch.testing.assert_close(found, expected)
