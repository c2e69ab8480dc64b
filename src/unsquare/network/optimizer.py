"""Creates the optimizer by its name, and holds its settings.

A run gives an optimizer gradients and a new learning rate for each step, and saves its state as tensors and JSON. Of
the hundred optimizers of timm, some need a second backward pass, a CUDA device, a missing package or the highest
learning rate beforehand, or have a state that cannot be saved. Which ones changes with timm, so each is tried.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from unsquare.errors import ConfigError, RunError
from unsquare.network.config import OptimizerConfig
from unsquare.network.stages import stages_of
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
    trained = model if _is_uniform(model, config) else parameter_groups(model, config)
    try:
        return optim.create_optimizer_v2(trained, config.optimizer, lr=0.0, weight_decay=config.weight_decay, **options)
    except FAILURES as error:
        raise refusal(config, error) from error


def _is_uniform(model: nn.Module, config: OptimizerConfig) -> bool:
    """Whether all parameters share a learning rate, so that timm's own groups do."""
    return not hasattr(model, "backbone") or (config.head_lr_factor in (None, 1.0) and config.layer_decay == 1)


def parameter_groups(model: Any, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups of a classifier's parameters with their factors on the learning rate (`lr_scale`), without frozen ones.

    Biases and norms have no weight decay, as in timm.
    """
    backbone, head = model.backbone, config.head_lr_factor or 1.0
    stages = stages_of(backbone) if config.layer_decay != 1 else {}
    last = max((stage for name, stage in stages.items() if name not in model.unused), default=0)
    exempt = set(backbone.no_weight_decay()) if hasattr(backbone, "no_weight_decay") else set()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        own = name.removeprefix("backbone.")
        scale = head if own == name else config.layer_decay ** max(last - stages.get(own, last), 0)
        decay = 0.0 if parameter.ndim <= 1 or own in exempt else config.weight_decay
        groups.setdefault((scale, decay), []).append(parameter)
    return [{"params": each, "lr_scale": scale, "weight_decay": decay} for (scale, decay), each in groups.items()]


def refusal(config: OptimizerConfig, error: Exception) -> ConfigError:
    """The error to raise where an optimizer cannot be used."""
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return ConfigError(
        f"The optimizer {config.optimizer!r} cannot be used ({reason}): it must work from gradients alone, with a "
        "state of tensors and numbers; try adamw, sgd or lion."
    )
