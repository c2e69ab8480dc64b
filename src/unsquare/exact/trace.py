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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unsquare.errors import ExactError
from unsquare.exact import operations
from unsquare.exact.operations import FeatureMap, Unknown
from unsquare.exact.regions import Extent
from unsquare.exact.registry import PIXELWISE_LAYERS, exact_class, stock_class

# Unequal sides, so that no axis is taken for another, and large enough that no map shrinks to one pixel.
_TRACED_CANVAS = (448, 576)


@dataclass
class Trace:
    """What a run of the model showed."""

    inputs: dict[str, FeatureMap] = field(default_factory=dict)
    """The map given to each layer that needs an exact form, by the layer's path."""
    output: FeatureMap | None = None
    """The map that the model returns; None where it returns one vector per image."""


def trace(model: nn.Module, method: str = "forward") -> Trace:
    """Follow the feature maps through a model, in training and in evaluation.

    Args:
        model: Called with images (N, 3, H, W).
        method: Its method to call.

    Returns:
        What both runs agree on. Raises ExactError with the path of the first module that cannot be exact.
    """
    found = Trace()
    for training in (True, False):
        shadow = _on_meta(model).train(training)
        run = _Run(shadow, found)
        dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
        images = torch.empty((2, _num_channels(model), *_TRACED_CANVAS), dtype=dtype, device="meta")
        run.maps.set(images, FeatureMap(Extent(), clean=True))
        with torch.no_grad(), run.watch_modules(), run:
            output = _call(shadow, method, images)
        if not isinstance(output, Tensor):
            raise ExactError(
                f"{type(model).__name__} returns a {type(output).__name__}, not one tensor; use a model that "
                "returns logits or one feature map."
            )
        found.output = run.maps.get(output)
    return found


class _Maps:
    """Feature maps by tensor; the tensors are kept, so that no identity is used twice."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, FeatureMap]] = {}

    def get(self, value: Any) -> FeatureMap | None:
        known = self._known.get(id(value))
        return None if known is None else known[1]

    def set(self, tensor: Tensor, feature_map: FeatureMap) -> None:
        self._known[id(tensor)] = (tensor, feature_map)


class _Run(TorchDispatchMode):
    """One run of the model: carries feature maps from operation to operation and from layer to layer."""

    def __init__(self, model: nn.Module, found: Trace) -> None:
        super().__init__()
        self.maps = _Maps()
        self._model = model
        self._found = found
        self._path: list[tuple[str, nn.Module]] = [("", model)]
        self._inside_known_layer = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._inside_known_layer:
            return result
        leaves = tree_leaves((args, kwargs))
        if any(self.maps.get(leaf) is not None for leaf in leaves if isinstance(leaf, Tensor)):
            try:
                after = operations.follow(func, args, kwargs, result, self.maps.get)
            except Unknown as unknown:
                self._refuse(str(unknown))
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor) and after is not None:
                    self.maps.set(tensor, after)
        return result

    @contextmanager
    def watch_modules(self) -> Iterator[None]:
        """Learn which module runs, and take known layers as a whole."""
        handles = []
        for name, module in self._model.named_modules():
            if name:
                handles.append(module.register_forward_pre_hook(self._entering(name)))
                handles.append(module.register_forward_hook(self._left(name), always_call=False))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._path.append((name, module))
            if self._inside_known_layer or (self._is_known(module) and self._given(args) is not None):
                self._inside_known_layer += 1

        return hook

    def _left(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self._inside_known_layer:
                self._inside_known_layer -= 1
                given = self._given(args)
                if not self._inside_known_layer and given is not None:
                    self._pass_through(name, module, given, output)
            self._path.pop()

        return hook

    def _is_known(self, module: nn.Module) -> bool:
        return stock_class(module) in PIXELWISE_LAYERS or exact_class(module) is not None

    def _given(self, args: tuple[Any, ...]) -> FeatureMap | None:
        return self.maps.get(args[0]) if args else None

    def _pass_through(self, name: str, module: nn.Module, given: FeatureMap, output: Tensor) -> None:
        """Apply the rule of a layer known as a whole."""
        exact = exact_class(module)
        if exact is None:
            if output.ndim - 1 in given.axes:
                self._refuse("it mixes positions along the width")
            self.maps.set(output, given.dirty())
            return
        reason = exact.refusal(module)
        if reason is None and given.axes != exact.axes(module):
            reason = f"it is given a map with height and width at axes {given.axes}"
        if reason is not None:
            self._refuse(reason)
        if exact.sideways(module):
            before = self._found.inputs.setdefault(name, given)
            if before != given:
                self._refuse("it is called on feature maps of different extents")
        windows = exact.windows(module)
        if windows is not None:
            self.maps.set(output, FeatureMap(given.extent.through(windows), given.axes))

    def _refuse(self, reason: str) -> NoReturn:
        name, module = self._path[-1]
        where = f"{name} ({stock_class(module).__name__})" if name else stock_class(module).__name__
        raise ExactError(
            f"{where} of {stock_class(self._model).__name__} cannot be made padding-exact: {reason}. "
            "Use a variant without it, or another backbone (ResNet and ConvNeXt are supported)."
        )


def _call(model: nn.Module, method: str, images: Tensor) -> Any:
    try:
        return getattr(model, method)(images)
    except ExactError:
        raise
    except Exception as error:
        raise ExactError(
            f"{stock_class(model).__name__} cannot be followed without data on a canvas of "
            f"{_TRACED_CANVAS[0]} x {_TRACED_CANVAS[1]}: {error}. Use a model whose steps do not depend on pixels."
        ) from error


def _on_meta(model: nn.Module) -> nn.Module:
    """A stock copy of the model without data: tensors are replaced while copying, so weights are not doubled."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    shadow = copy.deepcopy(model, memo)
    for module in shadow.modules():
        module.__class__ = stock_class(module)
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.momentum = 0.1  # a momentum of None asks for the value of a counter, which meta does not hold
    return shadow


def _num_channels(model: nn.Module) -> int:
    channels = getattr(model, "in_chans", None)
    if isinstance(channels, int):
        return channels
    for module in model.modules():
        for name in ("in_channels", "num_features", "num_channels"):
            if isinstance(getattr(module, name, None), int):
                return getattr(module, name)
    return 3
