"""Checks that an optimizer works in a run: that it needs gradients only, and that a checkpoint can hold its state."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from unsquare.errors import ConfigError
from unsquare.network.config import OptimizerConfig
from unsquare.network.optimizer import FAILURES, create_optimizer, optim, refusal
from unsquare.settings import meant
from unsquare.training import checkpoint


def check_optimizer(config: OptimizerConfig) -> None:
    """Try the optimizer on a tiny network: two steps, its state saved and loaded.

    Raises:
        ConfigError: timm has none of that name, or it cannot be used in a run.
    """
    name, known = config.optimizer.lower(), optim.list_optimizers()
    if name.removeprefix("lookahead_") not in known:  # timm itself would read "x_adamw" as adamw
        hint = meant(name, known)
        hint = hint if hint.startswith("did") else "try adamw, sgd or lion."
        raise ConfigError(f"There is no timm optimizer {config.optimizer!r}; {hint}")
    try:
        # Without compilation: some compile their step, which takes a minute.
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
    except FAILURES as error:
        raise refusal(config, error) from error
