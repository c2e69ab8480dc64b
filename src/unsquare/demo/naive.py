"""The baseline of the comparison: random batches, zero-padded to their largest image, and an unchanged network.

The pixels are normalized before they are padded, as by a collate function after the usual transforms.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from unsquare.errors import ExactError
from unsquare.execution.chain import Chain
from unsquare.network.classifier import Classifier, create_backbone
from unsquare.network.config import ModelConfig
from unsquare.plan.config import Limits, PlanConfig
from unsquare.plan.epoch import EpochPlan, Step, micro_batches_of
from unsquare.plan.planner import plan_epoch, plan_in_order
from unsquare.shapes import Sizes
from unsquare.training.components import Components

BATCH = 8
"""Images of a random batch; a step gathers as many batches as it needs."""


class NaiveClassifier(Classifier):
    """The same network, but padding affects its output."""

    def __init__(self, config: ModelConfig, num_classes: int, *, load: bool = True) -> None:
        super().__init__(config, num_classes, load=load)
        stock = create_backbone(config, load)
        stock.load_state_dict(self.backbone.state_dict())
        self.backbone = stock

    def chain(self) -> Chain:
        """Refuse: padded images cannot be run in parts, since padding counts as picture."""
        raise ExactError("The zero-padded baseline can only run the network as a whole; give it more memory.")

    def features(self, pixels: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of the whole canvas, which is the region of every image."""
        sizes = sizes.to(pixels.device)
        rows = torch.arange(pixels.shape[2], device=pixels.device)[None, :] < sizes[:, :1]  # (N, H)
        columns = torch.arange(pixels.shape[3], device=pixels.device)[None, :] < sizes[:, 1:]  # (N, W)
        shown = pixels * (rows[:, :, None] & columns[:, None, :])[:, None]
        features = self.backbone(shown.contiguous(memory_format=torch.channels_last))
        whole = torch.tensor(features.shape[2:], device=pixels.device)
        return features, whole.expand(len(pixels), 2)


def plan_random(sizes: npt.ArrayLike, config: PlanConfig, limits: Limits, epoch: int, **options: Any) -> EpochPlan:
    """The steps of `plan_epoch`, each cut into batches regardless of shape."""
    plan = plan_epoch(sizes, config, limits, epoch, **options)
    return replace(plan, steps=tuple(_random_batches(plan.sizes, step, epoch) for step in plan.steps))


def plan_random_in_order(sizes: npt.ArrayLike, limits: Limits) -> EpochPlan:
    """Batches in the order of the index."""
    plan = plan_in_order(sizes, limits)
    images = np.arange(len(plan.sizes))
    groups = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    return replace(plan, steps=tuple(Step((tuple(micro_batches_of(plan.sizes, [group])),)) for group in groups))


def _random_batches(sizes: Sizes, step: Step, epoch: int) -> Step:
    images = np.sort(np.concatenate([each.images for each in step.micro_batches]))
    images = np.random.default_rng((epoch, int(images[0]))).permutation(images)
    groups = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    return Step((tuple(micro_batches_of(sizes, groups)),))


NAIVE = Components(classifier=NaiveClassifier, plan=plan_random, plan_in_order=plan_random_in_order)
