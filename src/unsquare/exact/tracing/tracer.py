"""One run of a model without data, in which each feature map is followed from operation to operation.

`trace` says what it is for; this is how it is done: hooks around each module, a mode that sees functional calls, and a
mode that sees every ATen operation.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unsquare.errors import ExactError
from unsquare.exact.extent import Extent
from unsquare.exact.ops.functions import RULES, CallContext, CallHandling, Replacement
from unsquare.exact.registry import SAME_PADDED, exact_class, is_known, stock_class
from unsquare.exact.tracing import operations
from unsquare.exact.tracing.feature_maps import FeatureMap, TracedTensors
from unsquare.exact.tracing.operations import AmbiguousOperation, InexactOperation
from unsquare.exact.tracing.size_tracker import SizeTracker
from unsquare.exact.tracing.traced import (
    AmbiguousCanvasError,
    StockTraceError,
    TracedCall,
    TracedModel,
    TracedSite,
    TracedStep,
)
from unsquare.torch_private import TorchDispatchMode, tree_leaves, without_checkpointing

_HERE = str(Path(__file__).parent)


class _OperationMode(TorchDispatchMode):
    """Sees every ATen operation."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = _QUICK.get(func, func)(*args, **kwargs)
        self._tracer.operated(func, args, kwargs, result)
        return result


def _batch_norm(x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *_: Any) -> Any:
    saved = x.new_empty(x.shape[1] if training else 0)
    return torch.empty_like(x), saved, torch.empty_like(saved)


def _layer_norm(x: Tensor, shape: Any, *_: Any) -> Any:
    saved = x.new_empty((*x.shape[: x.ndim - len(shape)], *(1 for _ in shape)))
    return torch.empty_like(x), saved, torch.empty_like(saved)


_QUICK: dict[Any, Any] = {
    torch.ops.aten.native_batch_norm.default: _batch_norm,
    torch.ops.aten.native_layer_norm.default: _layer_norm,
}
"""What norms return without data: PyTorch calculates it step by step, which would be half the time of following."""


class _FunctionMode(TorchFunctionMode):
    """Sees every call of one of PyTorch's functions, and every look at a tensor's shape."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._tracer.called(func, args, kwargs or {})


class Tracer:
    """One run of the model: carries feature maps from operation to operation and from layer to layer."""

    def __init__(
        self,
        model: nn.Module,
        found: TracedModel,
        training: bool,
        canvas: tuple[int, int],
        num_images: int,
        *,
        tell: bool = True,
    ) -> None:
        self.maps = TracedTensors(canvas, self.joined)
        self.canvas = canvas
        self._model = model
        self._found = found
        self._training = training
        self._path: list[tuple[str, nn.Module]] = [("", model)]
        self._calls: list[list[TracedCall]] = [[]]
        self._inside_known = 0
        self._uses: dict[int, set[str]] = {}
        self._refusal: ExactError | None = None
        self._own = {id(parameter) for parameter in model.parameters()}
        self._recomputed: list[int] = []
        self._sizes = SizeTracker(self.maps, num_images, self._refuse, self._by_rule, tell=tell)

    @contextmanager
    def observing(self) -> Iterator[None]:
        """See what the model does inside."""
        handles = []
        for name, module in self._model.named_modules():
            if name:
                handles.append(module.register_forward_pre_hook(self._entering(name)))
                # Before the module's own hooks, which are no part of the layer and which its exact form does not know.
                handles.append(module.register_forward_hook(self._left(name), prepend=True))
        try:
            with _OperationMode(self), _FunctionMode(self), without_checkpointing(self._block):
                yield
            if self._refusal is not None:  # the model's own code caught it
                raise self._refusal
            self._keep_calls("")
            self._sizes.check_small_map_branches(self.maps.extents())
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
            if "unhashable type" in str(error) and "SymInt" in str(error):
                self._refuse("it looks something up by the canvas's size or by the number of images")
            steps = traceback.extract_tb(error.__traceback__)
            own = [
                step for step in steps if "site-packages" not in step.filename and not step.filename.startswith(_HERE)
            ]
            place = "" if not own else f" ({Path(own[-1].filename).name}, line {own[-1].lineno})"
            advice = "it must take images of any size, and its control flow must not depend on pixel values"
            if isinstance(error, AssertionError):
                advice = "if it takes images of one size only, use a network that takes every size"
            elif "meta" in str(error):
                advice = "register its tensors as buffers and its layers as submodules, so that a copy includes them"
            elif "channel" in str(error):
                advice = (
                    f"if its images do not have {images.shape[1]} channels, set its attribute in_chans to their number"
                )
            raise StockTraceError(
                f"{within(self._where(), self._model)} fails on a canvas of {self.canvas[0]} x {self.canvas[1]}, "
                f"traced without data: {type(error).__name__}: {str(error).rstrip('.')}{place}. Check that the stock "
                f"model runs on its own; {advice}."
            ) from error

    @contextmanager
    def _block(self) -> Iterator[None]:
        """Around a checkpointed block: calls in it are made again in backward."""
        self._recomputed.append(len(self._path))
        try:
            yield
        finally:
            self._recomputed.pop()

    def _check_own(self, values: Any) -> None:
        """Refuse a parameter that is none of the copy's: a function or list kept on the object reaches the original."""
        for leaf in tree_leaves(values):
            if isinstance(leaf, nn.Parameter) and id(leaf) not in self._own:
                self._refuse(
                    "it uses a parameter that is not registered with it, or that it reaches through a function stored "
                    "on it, so that a copy would use the original's; register layers as submodules, and make "
                    "functions methods"
                )

    def operated(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Carry feature maps through one ATen operation."""
        if self._inside_known:
            return
        leaves = tree_leaves((args, kwargs))
        self._check_own(leaves)
        of_sizes = any(map(self.maps.of_sizes, leaves))
        of_images = any(map(self.maps.of_images, leaves)) and not operations.makes_new(func)
        self.maps.note(result, of_images=of_images, of_sizes=of_sizes)
        self._note(operations.name_of(func), operations.numbers(func, args, kwargs))
        if any(self.maps.get(leaf) is not None for leaf in leaves if isinstance(leaf, Tensor)):
            for tensor in operations.above_zero(func, args, result, self.maps):
                self._use(tensor, "root")
            try:
                after = operations.follow(func, args, kwargs, result, self.maps)
            except InexactOperation as unknown:
                self._refuse(str(unknown))
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor) and after is not None:
                    self.maps.set(tensor, after)
        if of_sizes and (of_images or not any(isinstance(leaf, Tensor) for leaf in tree_leaves(result))):
            self._refuse("it computes with values derived from the canvas's size")

    def called(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What one of PyTorch's functions returns to the model's code."""
        if self._inside_known:
            return func(*args, **kwargs)
        if type(self._path[-1][1]) in SAME_PADDED:  # its rule knows how its padding follows from the map's size
            return self._by_rule(func, args, kwargs)
        if func is Tensor.register_hook and self.maps.of_images(args[0]):
            self._refuse("it registers a hook on a gradient, which may mix pixels where tracing does not see it")
        return self._sizes.called(func, args, kwargs)

    def _by_rule(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Carry feature maps through one call of a function, if it has a rule."""
        if func not in RULES:
            return func(*args, **kwargs)
        name = RULES[func].__name__
        given = self.maps.get(args[0] if args else kwargs.get("input"))
        handling = None if given is None else self._handled(RULES[func], given, args, kwargs)
        if given is None or handling is None:
            self._calls[-1].append(TracedCall(name, None, TracedSite()))
            return func(*args, **kwargs)
        self._check_own((args, kwargs))
        site = TracedSite()
        site.add(given, handling.after)
        self._calls[-1].append(TracedCall(name, handling.replacement, site))
        if handling.replacement is not None:
            if self._recomputed and self._recomputed[-1] == len(self._path):
                self._refuse(
                    f"it calls {name} in a checkpointed function, where the call is not seen when the function runs "
                    "again in backward; checkpoint a module instead"
                )
            self._use(args[0] if args else kwargs["input"], "mixes pixels")
        if any(self.maps.of_sizes(leaf) for leaf in tree_leaves((args, kwargs))):
            self._refuse("it computes with values derived from the canvas's size")
        self._note(name, (str(handling.after), *_settings(handling.replacement), *handling.divisors))
        self._inside_known += 1
        try:
            result = func(*args, **kwargs)
        finally:
            self._inside_known -= 1
        self.maps.note(result, of_images=True, of_sizes=False)
        if handling.after is not None:
            self.maps.set(result, handling.after)
        return result

    def _use(self, tensor: Tensor, use: str) -> None:
        """Note what reads a map: zeros are written beside it for convolutions and pools, and zeros have no root."""
        uses = self._uses.setdefault(id(tensor), set())
        uses.add(use)
        if len(uses) > 1:
            self._refuse(
                "it takes a root of a feature map, or divides by one, that a convolution, pool or the like reads with "
                "zeros outside the region; compute the map separately for each"
            )

    def _note(self, step: str, values: tuple[Any, ...]) -> None:
        self._found.steps[self._training].append(TracedStep(self._where(), step, values))

    def joined(self, one: Extent, other: Extent) -> None:
        """Note that two extents must come to the same for each image."""
        self._found.joins.setdefault((one, other), self._where())

    def _handled(self, rule: Any, given: FeatureMap, args: Any, kwargs: Any) -> CallHandling | None:
        try:
            handling = rule(CallContext(self._path[-1][1], given, self.maps.extents_of), *args, **kwargs)
        except InexactOperation as unknown:
            self._refuse(str(unknown), AmbiguousCanvasError if isinstance(unknown, AmbiguousOperation) else ExactError)
        except TypeError as error:
            self._refuse(f"it calls {rule.__name__} with arguments that have no rule ({error})")
        if handling is not None:
            self._require_multiples(given.extent, handling.divisors)
        return handling

    def _require_multiples(self, extent: Extent, divisors: tuple[int, int]) -> None:
        """Note that the sides of a map must be multiples of some lengths: rounding down and up must agree."""
        if max(divisors) > 1:
            down, up = (
                Extent(*(formula.then(offset=up * (by - 1), divisor=by) for formula, by in zip(extent, divisors)))
                for up in (0, 1)
            )
            self.joined(down, up)

    def _entering(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._path.append((name, module))
            self._calls.append([])
            if self._inside_known or (is_known(module) and self._given(args) is not None):
                if not self._inside_known and any(self.maps.of_sizes(leaf) for leaf in tree_leaves(args)):
                    self._refuse("it is given values derived from the canvas's size")
                self._inside_known += 1

        return hook

    def _left(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self._inside_known:
                self._inside_known -= 1
                given = self._given(args)
                if not self._inside_known and given is not None:
                    self._pass_through(name, module, args, given, output)
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
            self._refuse("it makes different functional calls at different uses; use a separate module for each")
        for one, other in zip(before, calls):
            for given, after in zip(other.site.given, other.site.after):
                one.site.add(given, after)

    def _given(self, args: tuple[Any, ...]) -> FeatureMap | None:
        return self.maps.get(args[0]) if args else None

    def _pass_through(
        self, name: str, module: nn.Module, args: tuple[Any, ...], given: FeatureMap, output: Tensor
    ) -> None:
        """Apply the rule of a layer known as a whole."""
        self._found.known.add(name)
        self.maps.note(output, of_images=True, of_sizes=False)
        exact = exact_class(module)
        if exact is None:
            if output.ndim - 1 in given.axes:
                self._refuse("it mixes positions along the width")
            self.maps.set(output, given.moved())
            return
        reason = exact.refusal(module)
        if reason is None and given.axes != exact.axes(module):
            reason = f"it is given a map with height and width at axes {given.axes}, and not {exact.axes(module)}"
        if reason is not None:
            self._refuse(reason)
        self._require_multiples(given.extent, exact.divisors(module))
        windows = exact.windows(module)
        after = None if windows is None else FeatureMap(given.extent.through(windows), given.axes)
        if exact.mixes_pixels(module):
            self._use(args[0], "mixes pixels")
            self._found.layers.setdefault(name, TracedSite()).add(given, after)
        if after is not None:
            self.maps.set(output, after)

    def _where(self) -> str:
        name, module = self._path[-1]
        return f"{name} ({stock_class(module).__name__})" if name else stock_class(module).__name__

    def _refuse(self, reason: str, error: type[ExactError] = ExactError) -> NoReturn:
        self._refusal = error(
            f"{within(self._where(), self._model)} cannot be made padding-exact: {reason}. "
            "Use a variant without it, or another backbone; docs/exactness.md lists replacements."
        )
        raise self._refusal


def within(where: str, model: nn.Module) -> str:
    """A module by its path in the model, which is named once."""
    name = stock_class(model).__name__
    return name if where in ("", name) else f"{where} of {name}"


def _settings(replacement: Replacement | None) -> tuple[Any, ...]:
    """What a replacement was settled on from the call's arguments."""
    return tuple(getattr(replacement, "keywords", {}).values())


def _replacement(seen: TracedCall) -> tuple[Any, ...]:
    """What a call is replaced by, for comparison."""
    replacement: Any = seen.replacement
    return seen.name, getattr(replacement, "func", replacement), getattr(replacement, "keywords", None)
