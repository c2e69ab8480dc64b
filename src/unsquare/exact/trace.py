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
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unsquare.errors import ExactError
from unsquare.exact import operations
from unsquare.exact.extent import Extent
from unsquare.exact.functions import RULES, Plan, Run, Scene
from unsquare.exact.operations import Ambiguous, FeatureMap, Unknown
from unsquare.exact.registry import PIXELWISE_LAYERS, PLAIN_BATCH_NORMS, exact_class, stock_class

# Unequal sides, so that no axis is taken for another, and large enough that no map shrinks to one pixel. The first
# suits models that need multiples of 64; one pixel more tells apart lengths that are rounded up and down.
_CANVASES = ((448, 576), (449, 577))


@dataclass
class Place:
    """The maps given and returned at one place of the model, for each depth at which it is used."""

    given: list[FeatureMap] = field(default_factory=list)
    after: list[FeatureMap | None] = field(default_factory=list)

    def add(self, given: FeatureMap, after: FeatureMap | None) -> None:
        """Note one more use."""
        if (given, after) not in zip(self.given, self.after):
            self.given.append(given)
            self.after.append(after)


class Seen(NamedTuple):
    """A functional call in a module's own code."""

    name: str
    run: Run | None
    """What takes its place; None where the stock function is right."""
    place: Place


@dataclass
class Trace:
    """What runs of the model showed."""

    layers: dict[str, Place] = field(default_factory=dict)
    """The layers that need an exact form, by path."""
    calls: dict[str, dict[bool, list[Seen]]] = field(default_factory=dict)
    """The functional calls of each module that makes any, by path and by `training`."""
    known: set[str] = field(default_factory=set)
    """Paths of all layers taken as a whole."""
    joins: dict[tuple[Extent, Extent], str] = field(default_factory=dict)
    """Extents that must come to the same for each image, and the module where their maps meet."""
    outputs: dict[bool, tuple[FeatureMap | None, ...]] = field(default_factory=dict)
    """What the model returns, tensor by tensor, by `training`: a map, or None for one vector per image."""


def trace(model: nn.Module, method: str = "forward") -> Trace:
    """Follow the feature maps through a model, in training and in evaluation.

    Args:
        model: Called with images (N, 3, H, W).
        method: Its method to call.

    Returns:
        What both runs agree on. Raises ExactError with the path of the first module that cannot be exact.
    """
    try:
        return _followed(model, method, _CANVASES[0])
    except _AmbiguousError:
        return _followed(model, method, _CANVASES[1])


def _followed(model: nn.Module, method: str, canvas: tuple[int, int]) -> Trace:
    found = Trace()
    for training in (True, False):
        shadow = _on_meta(model).train(training)
        run = _Run(shadow, found, training, canvas)
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


class _AmbiguousError(ExactError):
    """A refusal that another canvas may lift."""


class _Maps:
    """Feature maps by tensor; the tensors are kept, so that no identity is used twice."""

    def __init__(self, run: _Run) -> None:
        self._known: dict[int, tuple[Tensor, FeatureMap]] = {}
        self._run = run

    def get(self, value: Any) -> FeatureMap | None:
        known = self._known.get(id(value))
        return None if known is None else known[1]

    def set(self, tensor: Tensor, feature_map: FeatureMap) -> None:
        self._known[id(tensor)] = (tensor, feature_map)

    def join(self, one: Extent, other: Extent) -> None:
        self._run.joined(one, other)

    def extents_of(self, shape: tuple[int, int]) -> frozenset[Extent]:
        return frozenset(
            known.extent for _, known in self._known.values() if known.extent.of_canvas(self._run.canvas) == shape
        )


class _Operations(TorchDispatchMode):
    """Sees every ATen operation."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self._run = run

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._run.operated(func, args, kwargs, result)
        return result


class _Functions(TorchFunctionMode):
    """Sees every call of a function that has a rule."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self._run = run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in RULES:
            return func(*args, **kwargs)
        return self._run.called(func, args, kwargs)


class _Run:
    """One run of the model: carries feature maps from operation to operation and from layer to layer."""

    def __init__(self, model: nn.Module, found: Trace, training: bool, canvas: tuple[int, int]) -> None:
        self.maps = _Maps(self)
        self.canvas = canvas
        self._model = model
        self._found = found
        self._training = training
        self._path: list[tuple[str, nn.Module]] = [("", model)]
        self._calls: list[list[Seen]] = [[]]
        self._inside_known = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """See what the model does inside."""
        handles = []
        for name, module in self._model.named_modules():
            if name:
                handles.append(module.register_forward_pre_hook(self._entering(name)))
                handles.append(module.register_forward_hook(self._left(name)))
        try:
            with _Operations(self), _Functions(self):
                yield
            self._keep_calls("")
        finally:
            for handle in handles:
                handle.remove()

    def call(self, method: str, images: Tensor) -> Any:
        """What the model's method returns."""
        try:
            return getattr(self._model, method)(images)
        except ExactError:
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise ExactError(
                f"{self._where()} of {stock_class(self._model).__name__} cannot be followed on a canvas of "
                f"{images.shape[2]} x {images.shape[3]} without data: {reason.rstrip('.')}. Use a model that takes "
                "images of any size and whose steps do not depend on pixels."
            ) from error

    def operated(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Carry feature maps through one ATen operation."""
        if self._inside_known:
            return
        leaves = tree_leaves((args, kwargs))
        if any(self.maps.get(leaf) is not None for leaf in leaves if isinstance(leaf, Tensor)):
            try:
                after = operations.follow(func, args, kwargs, result, self.maps)
            except Unknown as unknown:
                self._refuse(str(unknown))
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor) and after is not None:
                    self.maps.set(tensor, after)

    def called(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Carry feature maps through one call of a function that has a rule."""
        if self._inside_known:
            return func(*args, **kwargs)
        name = RULES[func].__name__
        given = self.maps.get(args[0] if args else kwargs.get("input"))
        plan = None if given is None else self._planned(RULES[func], given, args, kwargs)
        if given is None or plan is None:
            self._calls[-1].append(Seen(name, None, Place()))
            return func(*args, **kwargs)
        place = Place()
        place.add(given, plan.after)
        self._calls[-1].append(Seen(name, plan.run, place))
        self._inside_known += 1
        try:
            result = func(*args, **kwargs)
        finally:
            self._inside_known -= 1
        if plan.after is not None:
            self.maps.set(result, plan.after)
        return result

    def joined(self, one: Extent, other: Extent) -> None:
        """Note that two extents must come to the same for each image."""
        self._found.joins.setdefault((one, other), self._where())

    def _planned(self, rule: Any, given: FeatureMap, args: Any, kwargs: Any) -> Plan | None:
        try:
            plan = rule(Scene(self._path[-1][1], self.maps.extents_of), given, *args, **kwargs)
        except Unknown as unknown:
            self._refuse(str(unknown), _AmbiguousError if isinstance(unknown, Ambiguous) else ExactError)
        except TypeError as error:
            self._refuse(f"it calls {rule.__name__} in an unusual way ({error})")
        if plan is not None:
            self._whole(given.extent, plan.whole)
        return plan

    def _whole(self, extent: Extent, divisors: tuple[int, int]) -> None:
        """Note that the sides of a map must be multiples of some lengths: rounding down and up must agree."""
        if max(divisors) > 1:
            down, up = (
                Extent(*(reach.then(offset=up * (by - 1), divisor=by) for reach, by in zip(extent, divisors)))
                for up in (0, 1)
            )
            self.joined(down, up)

    def _entering(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._path.append((name, module))
            self._calls.append([])
            if self._inside_known or (self._is_known(module) and self._given(args) is not None):
                self._inside_known += 1

        return hook

    def _left(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self._inside_known:
                self._inside_known -= 1
                given = self._given(args)
                if not self._inside_known and given is not None:
                    self._pass_through(name, module, given, output)
            self._keep_calls(name)
            self._path.pop()

        return hook

    def _keep_calls(self, name: str) -> None:
        """Note what calls a module has made, beside those of its other uses."""
        calls = self._calls.pop()
        if not calls:
            return
        before = self._found.calls.setdefault(name, {}).setdefault(self._training, calls)
        if [_replacement(one) for one in before] != [_replacement(other) for other in calls]:
            self._refuse("it makes other functional calls at one use than at another; use one module for each")
        for one, other in zip(before, calls):
            for given, after in zip(other.place.given, other.place.after):
                one.place.add(given, after)

    def _is_known(self, module: nn.Module) -> bool:
        return stock_class(module) in PIXELWISE_LAYERS or exact_class(module) is not None

    def _given(self, args: tuple[Any, ...]) -> FeatureMap | None:
        return self.maps.get(args[0]) if args else None

    def _pass_through(self, name: str, module: nn.Module, given: FeatureMap, output: Tensor) -> None:
        """Apply the rule of a layer known as a whole."""
        self._found.known.add(name)
        exact = exact_class(module)
        if exact is None:
            if output.ndim - 1 in given.axes:
                self._refuse("it mixes positions along the width")
            self.maps.set(output, given.moved())
            return
        reason = exact.refusal(module)
        if reason is None and given.axes != exact.axes(module):
            reason = f"it is given a map with height and width at axes {given.axes}"
        if reason is not None:
            self._refuse(reason)
        self._whole(given.extent, exact.whole(module))
        windows = exact.windows(module)
        after = None if windows is None else FeatureMap(given.extent.through(windows), given.axes)
        if exact.sideways(module):
            self._found.layers.setdefault(name, Place()).add(given, after)
        if after is not None:
            self.maps.set(output, after)

    def _where(self) -> str:
        name, module = self._path[-1]
        return f"{name} ({stock_class(module).__name__})" if name else stock_class(module).__name__

    def _refuse(self, reason: str, error: type[ExactError] = ExactError) -> NoReturn:
        raise error(
            f"{self._where()} of {stock_class(self._model).__name__} cannot be made padding-exact: {reason}. "
            "Use a variant without it, or another backbone; the documentation lists which are exact."
        )


def _replacement(seen: Seen) -> tuple[Any, ...]:
    """What a call is replaced by, for comparison."""
    run: Any = seen.run
    return seen.name, getattr(run, "func", run), getattr(run, "keywords", None)


def _on_meta(model: nn.Module) -> nn.Module:
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
