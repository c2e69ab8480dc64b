"""The stages of a backbone, by timm's own grouping of its parameters: the stem is stage 0, blocks of one size follow.

Early stages see edges and textures that are the same in most pictures, so they can be frozen, or learn more slowly.
Frozen stages are run as in evaluation: their norms keep their statistics, and nothing is dropped.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from unsquare.errors import ConfigError
from unsquare.torchvision_guard import import_timm

timm = import_timm()

_SIDE = 256
"""Pixels of a side that every backbone takes."""


def stages_of(backbone: Any) -> dict[str, int]:
    """The stage of each parameter of a timm backbone, by its name.

    Raises:
        ConfigError: timm does not say which parameters belong together.
    """
    if not hasattr(backbone, "group_matcher"):
        raise ConfigError("The backbone has no stages in timm; leave out --freeze and --layer-decay, or take another.")
    found: dict[str, int] = timm.models.group_parameters(backbone, backbone.group_matcher(coarse=True), reverse=True)
    return found


def unused_parameters(backbone: nn.Module) -> frozenset[str]:
    """Names of the parameters of a stock backbone that get no gradient from its `forward_features`."""
    shadow: Any = copy.deepcopy(backbone).to("meta").requires_grad_(True)
    shadow.forward_features(torch.empty(2, 3, _SIDE, _SIDE, device="meta")).sum().backward()
    return frozenset(name for name, parameter in shadow.named_parameters() if parameter.grad is None)


def freeze(backbone: nn.Module, what: str, unused: Collection[str] = ()) -> tuple[nn.Module, ...]:
    """Freeze a backbone, or its stem and first stages.

    Args:
        backbone: its parameters are changed in place.
        what: "backbone", or the number of stages after the stem.
        unused: names of parameters that have no part in training.

    Returns:
        The modules that are to stay in evaluation mode.

    Raises:
        ConfigError: it has fewer stages.
    """
    if what == "backbone":
        backbone.requires_grad_(False)
        return (backbone,)
    stages = stages_of(backbone)
    most = max(stage for name, stage in stages.items() if name not in unused)
    if int(what) >= most:
        raise ConfigError(
            f"freeze must leave a stage to train, but is {what} and the backbone has {most} after its stem; give less, "
            "or backbone to train the head alone."
        )
    for name, parameter in backbone.named_parameters():
        if stages[name] <= int(what):
            parameter.requires_grad_(False)
    return tuple(_frozen(backbone))


def _frozen(module: nn.Module) -> list[nn.Module]:
    """The largest modules below this one whose parameters are all frozen."""
    found: list[nn.Module] = []
    for child in module.children():
        parameters = list(child.parameters())
        if parameters and not any(each.requires_grad for each in parameters):
            found.append(child)
        else:
            found += _frozen(child)
    return found
