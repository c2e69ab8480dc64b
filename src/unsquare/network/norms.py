"""Other norms instead of batch norm, for micro-batches too small for its statistics.

Both functions return a copy of a stock model, to be given to `make_exact`. Freezing keeps a pretrained network's
function and state-dict keys; group norm keeps weights and biases but no statistics, so a pretrained network must be
trained again.
"""

from __future__ import annotations

import copy
from math import gcd
from typing import Any

from torch import nn

from unsquare.exact.layers.norm import FrozenBatchNorm2d, FrozenBatchNormAct2d
from unsquare.torchvision_guard import import_timm

_layers = import_timm().layers
_BatchNormAct2d: Any = _layers.BatchNormAct2d

# Wu and He, Group Normalization, 2018, section 4.1: 32 groups did best.
_NUM_GROUPS = 32


_FROZEN: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.SyncBatchNorm: FrozenBatchNorm2d,
    _BatchNormAct2d: FrozenBatchNormAct2d,
}


def learns_statistics(model: nn.Module) -> bool:
    """Whether a batch norm learns its statistics from the images of a micro-batch."""
    frozen = tuple(_FROZEN.values())
    return any(isinstance(each, nn.BatchNorm2d) and not isinstance(each, frozen) for each in model.modules())


def freeze_batch_norms(model: nn.Module) -> nn.Module:
    """A copy of a model whose batch norms keep their current statistics."""
    frozen = copy.deepcopy(model)
    for module in frozen.modules():
        if type(module) in _FROZEN:
            module.__class__ = _FROZEN[type(module)]
            module.train(module.training)
    return frozen


def group_norms_instead(model: nn.Module) -> nn.Module:
    """A copy of a model with group norms, of at most 32 groups, instead of its batch norms."""
    changed = copy.deepcopy(model)
    for path, module in list(changed.named_modules()):
        if type(module) in _FROZEN:
            parent, _, name = path.rpartition(".")
            setattr(changed.get_submodule(parent), name, _grouped(module))
    return changed


def _grouped(norm: Any) -> nn.Module:
    num_groups = gcd(_NUM_GROUPS, norm.num_features)
    device = None if norm.weight is None else norm.weight.device
    options = {"eps": norm.eps, "affine": norm.affine, "device": device}
    if isinstance(norm, _BatchNormAct2d):
        grouped: Any = _layers.GroupNormAct(norm.num_features, num_groups, **options)
        grouped.drop, grouped.act = norm.drop, norm.act
    else:
        grouped = nn.GroupNorm(num_groups, norm.num_features, **options)
    if norm.affine:
        grouped.weight, grouped.bias = norm.weight, norm.bias
    return grouped.train(norm.training)
