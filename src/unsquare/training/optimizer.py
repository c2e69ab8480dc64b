"""The optimizer by its name, and whether it does what a run asks of one.

A run gives an optimizer gradients alone and a learning rate anew for each step, and saves its state as tensors and
JSON. Of the hundred names that timm knows, some want a second backward pass, a CUDA device, a package that is not there
or the highest rate beforehand, or keep a state that is neither. Which do changes with timm, so it is tried.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

import torch
from torch import nn

from unsquare.errors import ConfigError, RunError
from unsquare.settings import meant
from unsquare.torchvision_guard import import_timm
from unsquare.training import checkpoint
from unsquare.training.config import OptimizerConfig

import_timm()
optim = importlib.import_module("timm.optim")

# What optimizers raise of what they lack.
_FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError),
    RunError,
)


def create_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of a model's parameters, at the learning rate 0.

    Raises:
        ConfigError: timm has none of that name, or cannot make it so.
    """
    # One fused pass over each tensor, instead of a dozen.
    options = {"fused": True} if config.optimizer in ("adam", "adamw") else {}
    try:
        return optim.create_optimizer_v2(model, config.optimizer, lr=0.0, weight_decay=config.weight_decay, **options)
    except _FAILURES as error:
        raise _refusal(config, error) from error


def check_optimizer(config: OptimizerConfig) -> None:
    """Try the optimizer on a tiny network: two steps, its state saved and loaded.

    Raises:
        ConfigError: timm has none of that name, or it cannot be used so.
    """
    name, known = config.optimizer.lower(), optim.list_optimizers()
    if name.removeprefix("lookahead_") not in known:  # timm itself would take "x_adamw" for adamw
        hint = meant(name, known)
        hint = hint if hint.startswith("did") else "try adamw, sgd or lion."
        raise ConfigError(f"The optimizer must be one of timm's, but is {config.optimizer!r}; {hint}")
    try:
        # Eagerly: some compile their step, which takes a minute.
        eagerly = torch.compiler.set_stance("force_eager")
        with torch.random.fork_rng(devices=[]), eagerly, tempfile.TemporaryDirectory() as folder:
            model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2))
            optimizer = create_optimizer(model, config)
            for _ in range(2):
                for group in optimizer.param_groups:
                    group["lr"] = 1e-3
                model(torch.rand(2, 3, 5, 5)).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            state = checkpoint.TrainState(step=2, epoch=0, step_of_epoch=2, time_s=0.0)
            saved = checkpoint.save(Path(folder), "tried", model, optimizer, state)
            checkpoint.load_training(saved, create_optimizer(model, config))
    except _FAILURES as error:
        raise _refusal(config, error) from error


def _refusal(config: OptimizerConfig, error: Exception) -> ConfigError:
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return ConfigError(
        "The optimizer must work with gradients alone and be saved as tensors and numbers, but "
        f"{config.optimizer!r} does not ({reason}); try adamw, sgd or lion."
    )
