"""The optimizer by its name, and its settings.

A run gives an optimizer gradients alone and a learning rate anew for each step, and saves its state as tensors and
JSON. Of the hundred names that timm knows, some want a second backward pass, a CUDA device, a package that is not there
or the highest rate beforehand, or keep a state that is neither. Which do changes with timm, so it is tried.
"""

from __future__ import annotations

import importlib

import torch
from torch import nn

from unsquare.errors import ConfigError, RunError
from unsquare.network.config import OptimizerConfig
from unsquare.torchvision_guard import import_timm

import_timm()
optim = importlib.import_module("timm.optim")

FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError),
    RunError,
)
"""What optimizers raise of what they lack."""


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
