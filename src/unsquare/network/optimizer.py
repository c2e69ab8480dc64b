"""Creates the optimizer by its name, and holds its settings.

A run gives an optimizer gradients and a new learning rate for each step, and saves its state as tensors and JSON. Of
the hundred optimizers of timm, some need a second backward pass, a CUDA device, a missing package or the highest
learning rate beforehand, or have a state that cannot be saved. Which ones changes with timm, so each is tried.
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
"""Errors that optimizers raise where they lack something."""


def create_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of a model's parameters, with learning rate 0.

    Raises:
        ConfigError: timm has no optimizer of that name, or it cannot be created.
    """
    # One fused pass over each tensor, instead of a dozen passes.
    options = {"fused": True} if config.optimizer in ("adam", "adamw") else {}
    try:
        return optim.create_optimizer_v2(model, config.optimizer, lr=0.0, weight_decay=config.weight_decay, **options)
    except FAILURES as error:
        raise refusal(config, error) from error


def refusal(config: OptimizerConfig, error: Exception) -> ConfigError:
    """The error to raise where an optimizer cannot be used."""
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return ConfigError(
        f"The optimizer {config.optimizer!r} cannot be used ({reason}): it must work from gradients alone, with a "
        "state of tensors and numbers; try adamw, sgd or lion."
    )
