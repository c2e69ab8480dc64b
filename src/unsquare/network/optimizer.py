"""The optimizer by its name, and its settings.

A run gives an optimizer gradients alone and a learning rate anew for each step, and saves its state as tensors and
JSON. Of the hundred names that timm knows, some want a second backward pass, a CUDA device, a package that is not there
or the highest rate beforehand, or keep a state that is neither. Which do changes with timm, so it is tried.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

from unsquare.errors import ConfigError, RunError
from unsquare.settings import MOST_EPOCHS, Range, check_settings
from unsquare.torchvision_guard import import_timm

import_timm()
optim = importlib.import_module("timm.optim")

FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError),
    RunError,
)
"""What optimizers raise of what they lack."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the weights move."""

    epochs: Annotated[int, Range(1, MOST_EPOCHS)] = 30
    """Passes over the training images."""
    optimizer: str = "adamw"
    """Any optimizer of timm's by name that works with gradients alone."""
    weight_decay: Annotated[float, Range(0, 1e6)] = 0.05
    """Decoupled weight decay; not applied to biases and norms. At a million nothing is left of a weight at any rate."""
    clip_norm: Annotated[float, Range(0, 1e30)] = 1.0
    """The gradient's norm is clipped to this; 0 leaves it, as would more than 1e30, beyond which float32 ends."""
    label_smoothing: Annotated[float, Range(0, below=1)] = 0.0
    """Part of each label's weight spread over all classes."""

    def __post_init__(self) -> None:
        check_settings(self)


def create_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of a model's parameters, at the learning rate 0.

    Raises:
        ConfigError: timm has none of that name, or cannot make it so.
    """
    # One fused pass over each tensor, instead of a dozen.
    options = {"fused": True} if config.optimizer in ("adam", "adamw") else {}
    try:
        return optim.create_optimizer_v2(model, config.optimizer, lr=0.0, weight_decay=config.weight_decay, **options)
    except FAILURES as error:
        raise refusal(config, error) from error


def refusal(config: OptimizerConfig, error: Exception) -> ConfigError:
    """What to raise where an optimizer does not do what is asked of one."""
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return ConfigError(
        "The optimizer must work with gradients alone and be saved as tensors and numbers, but "
        f"{config.optimizer!r} does not ({reason}); try adamw, sgd or lion."
    )
