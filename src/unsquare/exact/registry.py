"""Which stock layers have an exact form, and which need none.

Only the very classes named here are taken as known: a subclass may compute something else, so it is judged by
the operations it uses.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from torch import nn

from unsquare.errors import ExactError
from unsquare.exact.layers import image as image_layers
from unsquare.exact.layers import norm as norm_layers
from unsquare.exact.layers import window as layers
from unsquare.exact.layers.window import ExactLayer
from unsquare.torchvision_guard import import_timm

_timm = import_timm().layers
_grn = import_timm().layers.grn

EXACT_LAYERS: dict[type[nn.Module], type[ExactLayer]] = {
    nn.Conv2d: layers.ExactConv2d,
    _timm.StdConv2d: layers.ExactConv2d,
    _timm.ScaledStdConv2d: layers.ExactConv2d,
    _timm.CondConv2d: layers.ExactCondConv2d,
    importlib.import_module("timm.layers.space_to_depth").SpaceToDepth: layers.ExactSpaceToDepth,
    nn.MaxPool2d: layers.ExactMaxPool2d,
    nn.AvgPool2d: layers.ExactAvgPool2d,
    nn.BatchNorm2d: norm_layers.ExactBatchNorm2d,
    _timm.BatchNormAct2d: norm_layers.ExactBatchNorm2d,
    norm_layers.FrozenBatchNorm2d: norm_layers.ExactBatchNorm2d,
    norm_layers.FrozenBatchNormAct2d: norm_layers.ExactBatchNorm2d,
    nn.SyncBatchNorm: norm_layers.ExactSyncBatchNorm,
    _timm.SyncBatchNormAct: norm_layers.ExactSyncBatchNorm,
    nn.GroupNorm: norm_layers.ExactGroupNorm,
    _timm.GroupNorm: norm_layers.ExactGroupNorm,
    _timm.GroupNorm1: norm_layers.ExactGroupNorm,
    _timm.GroupNormAct: norm_layers.ExactGroupNorm,
    _timm.GroupNorm1Act: norm_layers.ExactGroupNorm,
    importlib.import_module("timm.models.metaformer").GroupNorm1NoBias: norm_layers.ExactGroupNorm,
    nn.InstanceNorm2d: norm_layers.ExactInstanceNorm2d,
    _grn.GlobalResponseNorm: norm_layers.ExactGlobalResponseNorm,
    nn.AdaptiveAvgPool2d: image_layers.ExactAdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d: image_layers.ExactAdaptiveMaxPool2d,
    _timm.SelectAdaptivePool2d: image_layers.ExactSelectAdaptivePool2d,
    _timm.SEModule: image_layers.ExactSEModule,
    _timm.EffectiveSEModule: image_layers.ExactEffectiveSEModule,
    _timm.EcaModule: image_layers.ExactEcaModule,
    _timm.CecaModule: image_layers.ExactCecaModule,
    _timm.GlobalContext: image_layers.ExactGlobalContext,
    _timm.AttentionPool2d: image_layers.ExactAttentionPool2d,
    _timm.RotAttentionPool2d: image_layers.ExactAttentionPool2d,
    **dict.fromkeys(
        (
            *(_timm.EvoNorm2dS0, _timm.EvoNorm2dS0a, _timm.EvoNorm2dS1, _timm.EvoNorm2dS1a),
            *(_timm.EvoNorm2dS2, _timm.EvoNorm2dS2a),
            *(_timm.FilterResponseNormAct2d, _timm.FilterResponseNormTlu2d),
        ),
        image_layers.ExactPerImage,
    ),
}

PLAIN_BATCH_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.SyncBatchNorm: nn.BatchNorm2d,
    _timm.SyncBatchNormAct: _timm.BatchNormAct2d,
}
"""For each synchronized batch norm, the layer that computes the same on one rank, on any device."""

PIXELWISE_LAYERS: frozenset[type[nn.Module]] = frozenset({nn.Linear})
"""Layers that treat each position of all axes but the last by itself."""


SAME_PADDED: frozenset[type[nn.Module]] = frozenset(
    {
        _timm.Conv2dSame,
        _timm.StdConv2dSame,
        _timm.ScaledStdConv2dSame,
        _timm.AvgPool2dSame,
        importlib.import_module("timm.layers.pool2d_same").MaxPool2dSame,
    }
)
"""Layers whose functional padding is TensorFlow's 'same', for the windows that the layer names."""


def stock_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module before it was made exact."""
    return getattr(type(module), "stock", type(module))


def exact_class(module: nn.Module) -> type[ExactLayer] | None:
    """The exact form that serves a module; None where there is none."""
    exact = EXACT_LAYERS.get(stock_class(module))
    return exact if exact is not None and exact.known(module) else None


def is_known(module: nn.Module) -> bool:
    """Whether a module is taken as a whole, instead of by the operations that it uses."""
    return stock_class(module) in PIXELWISE_LAYERS or exact_class(module) is not None


def overlaid(exact: Any, stock: Any) -> type[Any]:
    """The class with an exact form laid over a stock class, or over one laid before; the same class each time."""
    return _overlaid(exact, stock)


@cache
def _overlaid(exact: Any, stock: Any) -> type[Any]:
    origin = getattr(stock, "stock", stock)
    try:
        return _subclass(exact, stock, origin)
    except TypeError as error:
        raise ExactError(
            f"{origin.__name__} cannot be made padding-exact: its class cannot be subclassed without arguments "
            f"({error}); give the parameters of __init_subclass__ default values."
        ) from error


def _subclass(exact: Any, stock: Any, origin: Any) -> type[Any]:
    return type(f"Exact{origin.__name__}", (exact, stock), {"stock": origin, "__module__": exact.__module__})
