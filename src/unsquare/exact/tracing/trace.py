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
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from unsquare.errors import ExactError
from unsquare.exact.extent import Extent
from unsquare.exact.registry import PLAIN_BATCH_NORMS, stock_class
from unsquare.exact.tracing.feature_maps import FeatureMap
from unsquare.exact.tracing.traced import AmbiguousCanvasError, StockTraceError, TracedModel, TracedStep
from unsquare.exact.tracing.tracer import Tracer, within
from unsquare.torch_private import NormBase, tree_leaves

# Unequal sides, so that no axis is taken for another, and large enough that no map shrinks to one pixel. The first
# suits models that need multiples of 64; one pixel more tells apart lengths that are rounded up and down.
_CANVASES = ((448, 576), (449, 577))
# Canvases of other sizes, to find numbers that the model takes from the canvas: portrait, odd and small. The odd one
# stays odd while lengths are halved, its height if they are rounded up, its width if down; models for multiples cannot
# take it.
_PORTRAIT_CANVASES = ((704, 512), (705, 513))
_OTHER_CANVASES = ((449, 575), (96, 160))
# Far from them all: here sizes are plain numbers, as they are at work, for code that asks whether they are.
_LARGE_CANVAS = (8192, 10240)
_NAMES_OF_CHANNELS = ("in_channels", "num_features", "num_channels")
_MOST_CHANNELS = 16
"""Channels of images, if another layer of the model takes three."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the collector of cycles, whose passes over all that is loaded take nearly half the time of following."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@uncollected()
def trace(model: nn.Module, method: str = "forward") -> TracedModel:
    """Follow the feature maps through a model, in training and in evaluation.

    Args:
        model: Called with images (N, 3, H, W).
        method: Its method to call.

    Returns:
        What both runs agree on. Raises ExactError with the path of the first module that cannot be exact.
    """
    shadow = on_meta(model)
    found = _told_apart(shadow, method, _CANVASES)
    if method != "forward":  # its steps are those of forward, most likely, and were compared there
        return found
    _compare(found, _told_apart(shadow, method, _PORTRAIT_CANVASES, num_images=3), model)
    others = [(canvas, (False,), True) for canvas in _OTHER_CANVASES]
    for canvas, modes, tell in [*others, (_LARGE_CANVAS, (True, False), False)]:
        try:
            other = _followed(shadow, method, canvas, modes, tell=tell)
        except (StockTraceError, AmbiguousCanvasError):
            continue
        _compare(found, other, model)
    return found


def _compare(found: TracedModel, other: TracedModel, model: nn.Module) -> None:
    """Raise ExactError where the model's steps depend on the batch or its canvas, unknown to an image alone."""
    nothing = TracedStep("", "nothing", ())
    for training in other.outputs:
        for one, another in zip_longest(found.steps[training], other.steps[training], fillvalue=nothing):
            if one == another:
                continue
            where = one.where or another.where
            if "_local_scalar_dense" in (one.step, another.step):
                raise ExactError(
                    f"{within(where, model)} cannot be made padding-exact: it reads a tensor's value as a plain "
                    "number, which differs from call to call; compute with the tensor instead."
                )
            raise ExactError(
                f"{within(where, model)} cannot be made padding-exact: its steps depend on the canvas's size, or on "
                f"the number of images ({one.difference(another)}). Take means over space instead of dividing by the "
                "map's sides, and pool to a fixed grid instead of with windows as large as the map."
            )


def _told_apart(
    shadow: nn.Module, method: str, canvases: tuple[tuple[int, int], tuple[int, int]], num_images: int = 2
) -> TracedModel:
    """Followed on the first canvas, or on the second where maps of several kinds have one size on the first."""
    try:
        return _followed(shadow, method, canvases[0], num_images=num_images)
    except AmbiguousCanvasError:
        return _followed(shadow, method, canvases[1], num_images=num_images)


def _followed(
    shadow: nn.Module,
    method: str,
    canvas: tuple[int, int],
    modes: tuple[bool, ...] = (True, False),
    *,
    num_images: int = 2,
    tell: bool = True,
) -> TracedModel:
    found = TracedModel()
    for training in modes:
        tracer = Tracer(shadow.train(training), found, training, canvas, num_images, tell=tell)
        dtype = next((parameter.dtype for parameter in shadow.parameters()), torch.float32)
        images = torch.empty((num_images, num_channels(shadow), *canvas), dtype=dtype, device="meta")
        tracer.maps.set(images, FeatureMap(Extent(), clean=True))
        with torch.set_grad_enabled(training), tracer.observing():  # code may ask, and do other things with gradients
            output = tracer.call(method, images)
        leaves = tree_leaves(output)
        if not all(isinstance(leaf, Tensor) for leaf in leaves):
            raise ExactError(
                f"{type(shadow).__name__} returns a {type(output).__name__} with values that are not tensors; use a "
                "model that returns logits or feature maps."
            )
        if any(tracer.maps.of_sizes(leaf) for leaf in leaves):
            raise ExactError(
                f"{type(shadow).__name__} cannot be made padding-exact: it returns values derived from the canvas's "
                "size; return only what is computed from pixels."
            )
        if any(not leaf.ndim or len(leaf) != num_images for leaf in leaves):
            raise ExactError(
                f"{type(shadow).__name__} returns a tensor without one row for each image; use a model that "
                "returns logits or feature maps, and leave out what mixes images."
            )
        found.outputs[training] = tuple(tracer.maps.get(leaf) for leaf in leaves)
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
        if isinstance(module, NormBase):
            module.momentum = 0.1  # a momentum of None asks for the value of a counter, which meta does not hold
    return shadow


def num_channels(model: nn.Module) -> int:
    """How many channels a model's images have, as far as it says."""
    channels = getattr(model, "in_chans", None)
    if isinstance(channels, int):
        return channels
    found: list[int] = []
    for module in model.modules():
        # A network of several modules calls by the other names what it gives, and not what it takes.
        takes = ("in_channels",) if module is model and any(model.children()) else _NAMES_OF_CHANNELS
        found += [getattr(module, name) for name in takes if isinstance(getattr(module, name, None), int)]
    if not found or (found[0] > _MOST_CHANNELS and 3 in found):  # a head that stands before the stem
        return 3
    return found[0]
