"""Follows the feature maps through a model once, without data, to learn what each layer is given.

The model runs on the meta device (shapes only). Every tensor that is a feature map carries a `FeatureMap`: which
axes are height and width, and by which extent its region follows from the image's size. Layers known as a whole
pass it on by their own rule; anything else is seen as the ATen operations it consists of, each of which must be
known to treat pixels one by one. What is not known is refused, by the module's name: nothing passes unseen.

Tracing source code or recording modules alone would miss the functional calls between them (means, norms,
padding, attention), which are just the ones that padding changes.
"""

from __future__ import annotations

import copy
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from unsquare.errors import ExactError
from unsquare.exact.extent import Extent
from unsquare.exact.following import AmbiguousError, Numbers, Run, StockError, Trace, within
from unsquare.exact.operations import FeatureMap
from unsquare.exact.registry import PLAIN_BATCH_NORMS, stock_class

# Unequal sides, so that no axis is taken for another, and large enough that no map shrinks to one pixel. The first
# suits models that need multiples of 64; one pixel more tells apart lengths that are rounded up and down.
_CANVASES = ((448, 576), (449, 577))
# Canvases of other sizes, to find numbers that the model takes from the canvas. The odd one stays odd while lengths are
# halved, its height if they are rounded up, its width if down; models for multiples cannot take it.
_LARGER_CANVASES = ((512, 704), (513, 705))
_ODD_CANVAS = (449, 575)


def trace(model: nn.Module, method: str = "forward") -> Trace:
    """Follow the feature maps through a model, in training and in evaluation.

    Args:
        model: Called with images (N, 3, H, W).
        method: Its method to call.

    Returns:
        What both runs agree on. Raises ExactError with the path of the first module that cannot be exact.
    """
    found = _told_apart(model, method, _CANVASES, (True, False))
    _compare(found, _told_apart(model, method, _LARGER_CANVASES, (False,)), model)
    try:
        odd = _followed(model, method, _ODD_CANVAS, (False,))
    except (StockError, AmbiguousError):
        return found
    _compare(found, odd, model)
    return found


def _compare(found: Trace, other: Trace, model: nn.Module) -> None:
    """Raise ExactError where the model's steps depend on the canvas's size, of which no lone image knows."""
    for one, another in zip_longest(found.numbers, other.numbers, fillvalue=Numbers("", "nothing", ())):
        if one != another:
            where = one.where or another.where
            raise ExactError(
                f"{within(where, model)} cannot be made padding-exact: its steps depend on the canvas's size "
                f"({one.told(another)}). Take means over space instead of dividing by the map's sides, and pool to a "
                "fixed grid instead of by windows as large as the map."
            )


def _told_apart(
    model: nn.Module, method: str, canvases: tuple[tuple[int, int], tuple[int, int]], modes: tuple[bool, ...]
) -> Trace:
    """Followed on the first canvas, or on the second where maps of several kinds have one size on the first."""
    try:
        return _followed(model, method, canvases[0], modes)
    except AmbiguousError:
        return _followed(model, method, canvases[1], modes)


def _followed(model: nn.Module, method: str, canvas: tuple[int, int], modes: tuple[bool, ...]) -> Trace:
    found = Trace()
    for training in modes:
        shadow = on_meta(model).train(training)
        run = Run(shadow, found, training, canvas)
        dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
        images = torch.empty((2, num_channels(model), *canvas), dtype=dtype, device="meta")
        run.maps.set(images, FeatureMap(Extent(), clean=True))
        with torch.no_grad(), run.watched():
            output = run.call(method, images)
        leaves = tree_leaves(output)
        if not all(isinstance(leaf, Tensor) for leaf in leaves):
            raise ExactError(
                f"{type(model).__name__} returns a {type(output).__name__} of other things than tensors; use a model "
                "that returns logits or feature maps."
            )
        found.outputs[training] = tuple(run.maps.get(leaf) for leaf in leaves)
    return found


def on_meta(model: nn.Module) -> nn.Module:
    """A stock copy of the model without data: tensors are replaced while copying, so weights are not doubled."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    shadow = copy.deepcopy(model, memo)
    for module in shadow.modules():
        stock = stock_class(module)
        module.__class__ = PLAIN_BATCH_NORMS.get(stock, stock)
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.momentum = 0.1  # a momentum of None asks for the value of a counter, which meta does not hold
    return shadow


def num_channels(model: nn.Module) -> int:
    """How many channels a model's images have, as far as it says."""
    channels = getattr(model, "in_chans", None)
    if isinstance(channels, int):
        return channels
    for module in model.modules():
        for name in ("in_channels", "num_features", "num_channels"):
            if isinstance(getattr(module, name, None), int):
                return getattr(module, name)
    return 3
