"""The learning rate: warm-up and cosine over the run, times a factor that follows the batch size.

In `mixed` steps the batch size hardly changes and the factor is 1. In `b2b` a step of small pictures may hold a
hundred times the images of a step of large ones; the factor follows it by the linear rule (Goyal et al. 2017) or
its square root, which suits Adam (Malladi et al. 2022). It rises by at most `MAX_RISE` from one step of an epoch to the
next, because sudden increases make a run diverge, and falls at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from unsquare.plan.config import MOST_STEP
from unsquare.settings import MOST_EPOCHS, Range, check_settings

MAX_RISE = 1.5
"""The factor grows at most this many times from one step of an epoch to the next."""

_EXPONENTS = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}


@dataclass(frozen=True, kw_only=True)
class LearningRateConfig:
    """Learning rate schedule.

    Example:
        >>> unsquare.LearningRateConfig(lr=2e-4).warmup_epochs
        1.0
    """

    lr: Annotated[float, Range(above=0, most=1e6)] | None = None
    """Peak learning rate (default: recipe's). For a step of `lr_images` images. A million overflows at once."""
    lr_policy: Literal["none", "sqrt", "linear"] = "sqrt"
    """How the learning rate scales with the images of a step: none, sqrt or linear."""
    lr_images: Annotated[int, Range(1, MOST_STEP)] | None = None
    """Images of a step that `lr` is meant for (default: the mean of the epoch)."""
    warmup_epochs: Annotated[float, Range(0, MOST_EPOCHS)] = 1.0
    """Epochs of linear warm-up. Shortened to a fifth of a short run."""
    final_lr_fraction: Annotated[float, Range(0, 1)] = 0.01
    """Fraction of `lr` at the end of the cosine."""

    def __post_init__(self) -> None:
        check_settings(self)


def learning_rates(config: LearningRateConfig, images: Sequence[int], epoch: int, epochs: int) -> list[float]:
    """The learning rate of each step of an epoch.

    Args:
        config: the settings.
        images: number of images of each step of this epoch.
        epoch: which epoch, from 0.
        epochs: epochs of the whole run.
    """
    assert config.lr is not None, "a recipe has settled the learning rate"
    total = sum(images)
    reference = config.lr_images or total / len(images)
    warmup = min(config.warmup_epochs, epochs / 5)
    rates, factor, seen = [], math.inf, 0
    for num_images in images:
        seen += num_images
        # Progress is counted in images, so that steps of any size advance the schedule by their images.
        progress = epoch + (seen - num_images / 2) / total
        factor = min((num_images / reference) ** _EXPONENTS[config.lr_policy], MAX_RISE * factor)
        rates.append(config.lr * factor * _schedule(progress, epochs, warmup, config.final_lr_fraction))
    return rates


def _schedule(progress: float, epochs: int, warmup: float, final: float) -> float:
    """The part of the highest learning rate at a progress in epochs: linear warm-up, then cosine."""
    if progress < warmup:
        return progress / warmup
    done = (progress - warmup) / (epochs - warmup)
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2
