"""A network as a chain of steps, each of which takes one feature map and returns one.

Most convolutional networks are chains of blocks, whatever their code: a run without data shows which module's output is
the next one's input. Modules that are chains themselves (stages, sequences) are split into their steps, others
(residual blocks) are steps. A chain can be cut anywhere: to recompute what lies between two cuts, to offload what
crosses a cut, or to run a part tile by tile.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from unsquare.errors import ExactError
from unsquare.exact.model import entered, run_within
from unsquare.exact.regions import BatchRegions
from unsquare.exact.registry import stock_class
from unsquare.exact.tracing.trace import num_channels, on_meta
from unsquare.execution.cuts import StepWeight
from unsquare.execution.offload import offloaded
from unsquare.execution.random_state import undrawn
from unsquare.execution.receptive_field import NotLocalError, ReceptiveFields, find_receptive_field
from unsquare.execution.strategy import Segment, Strategy
from unsquare.execution.tiling import MapFunction, Part, TiledPart
from unsquare.torch_private import TorchDispatchMode, num_writes, tree_leaves

_LARGE_SIDE = 4096
"""Side of an image beside whose maps weights are small; nothing of it is computed."""
_WEIGHED_IMAGES = 2
"""Images of a batch by which steps are weighed: batch norms need more than one number for each channel."""
_WEIGHED_SIDES = (192, 320)
"""Sides of the images by which steps are weighed. The difference of the two leaves out what does not grow with
pixels, such as weights."""


@dataclass
class _ModuleCall:
    """One call of a module: its tensors, and the calls that it made itself."""

    path: str
    given: _MapPassed | None = None
    in_place: bool = False
    returned: _MapPassed | None = None
    calls: list[_ModuleCall] = field(default_factory=list)


class _MapPassed(NamedTuple):
    """A tensor and its version: writing into it in place makes it count as another tensor."""

    tensor: Tensor
    version: int

    @property
    def is_unchanged(self) -> bool:
        """Whether nothing was written into it since."""
        return self.version == num_writes(self.tensor)

    def is_same(self, other: _MapPassed | None) -> bool:
        """Whether both are the same tensor, with nothing written into it in between."""
        return other is not None and self.tensor is other.tensor and self.version == other.version


@dataclass(frozen=True)
class ChainStep:
    """One step of a chain."""

    path: str
    """Path of the module."""
    channels: int
    """Channels of the input map."""
    in_place: bool
    """Whether it writes into its input map, which is therefore copied where a part begins with this step."""


def find_steps(model: nn.Module, method: str = "forward") -> tuple[ChainStep, ...]:
    """The modules that a model's method applies one after another to a map; empty if it does anything else.

    Args:
        model: a stock or exact model.
        method: "forward" or "forward_features".
    """
    shadow = on_meta(model).eval()
    root = _ModuleCall("")
    stack = [root]

    def entering(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = _ModuleCall(path, given=_seen(args[0]) if len(args) == 1 and not kwargs else None)
            stack[-1].calls.append(call)
            stack.append(call)

        return hook

    def leaving(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = stack.pop()
        call.returned = _seen(output)
        call.in_place = call.given is not None and not call.given.is_unchanged

    for path, module in shadow.named_modules():
        if path:
            module.register_forward_pre_hook(entering(path), with_kwargs=True)
            module.register_forward_hook(leaving)
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    images = torch.empty((1, num_channels(model), 224, 224), dtype=dtype, device="meta")
    root.given = _seen(images)
    with torch.no_grad():
        root.returned = _seen(getattr(shadow, method)(images))
    if not _is_chain(root):
        return ()
    calls = _leaves(root)
    maps = [call.given.tensor if call.given is not None else images for call in calls]
    if any(x.ndim != 4 for x in maps):
        return ()
    return tuple(ChainStep(call.path, x.shape[1], call.in_place) for call, x in zip(calls, maps))


def _seen(value: Any) -> _MapPassed | None:
    return _MapPassed(value, num_writes(value)) if isinstance(value, Tensor) else None


def _is_chain(call: _ModuleCall) -> bool:
    """Whether a module only calls others in turn, each with the output of the one before."""
    x = call.given
    for inner in call.calls:
        if x is None or not x.is_same(inner.given):
            return False
        x = inner.returned
    return bool(call.calls) and x is not None and x.is_same(call.returned)


def _leaves(call: _ModuleCall) -> list[_ModuleCall]:
    found: list[_ModuleCall] = []
    for inner in call.calls:
        found += _leaves(inner) if _is_chain(inner) else [inner]
    return found


def map_elements_per_pixel(model: nn.Module, method: str = "forward") -> float:
    """Elements of the largest map that a model's method computes, for each pixel of the image."""
    shadow = on_meta(model).eval()
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    images = torch.empty((1, num_channels(model), _LARGE_SIDE, _LARGE_SIDE), dtype=dtype, device="meta")
    with torch.no_grad(), _Largest() as largest:
        getattr(shadow, method)(images)
    return largest.num_elements / _LARGE_SIDE**2


class _Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.num_elements = max(self.num_elements, leaf.numel())
        return result


class Chain:
    """An exact model's method as a chain of steps, which can be run by any execution strategy.

    Args:
        model: an exact model.
        method: "forward" or "forward_features", which must return a map of pixels.
        enter: what is applied to pixels before the first step, to each by itself, such as normalization.

    Raises:
        ExactError: the model is not a chain of steps.
    """

    def __init__(self, model: Any, method: str, enter: MapFunction) -> None:
        self._model = model
        self._method = method
        self._enter = enter
        self.steps = find_steps(model, method)
        if not self.steps:
            raise ExactError(
                f"{stock_class(model).__name__} is not a chain of blocks, so it cannot be run in parts; use a network "
                "of another family, such as resnet50 or convnext_tiny."
            )
        self._receptive_fields: dict[bool, tuple[ReceptiveFields | NotLocalError, ...]] = {}

    def module(self, step: int) -> nn.Module:
        """The module of a step."""
        return self._model.get_submodule(self.steps[step].path)

    def receptive_fields(self) -> tuple[ReceptiveFields | NotLocalError, ...]:
        """The receptive field of each step in the model's mode, training or not; an error where it has no bound."""
        mode = self._model.training
        if mode not in self._receptive_fields:
            self._receptive_fields[mode] = tuple(self._receptive_field(step) for step in range(len(self.steps)))
        return self._receptive_fields[mode]

    def _receptive_field(self, step: int) -> ReceptiveFields | NotLocalError:
        try:
            return find_receptive_field(self.module(step), self.steps[step].channels, self.steps[step].path)
        except NotLocalError as error:
            return error

    def run(self, strategy: Strategy, pixels: Tensor, sizes: Tensor, folder: Path | None = None) -> Tensor:
        """What the method returns for pixels (N, 3, H, W) with regions `sizes` (N, 2), run by a strategy.

        Args:
            strategy: how to run it; steps are tiled only if their receptive fields are bounded.
            pixels: the input of `enter`.
            sizes: on the host.
            folder: where a CPU's activations are offloaded to.
        """

        def through(batch: BatchRegions) -> Tensor:
            x, place = pixels, sizes
            for segment in strategy.segments:
                moved = strategy.offload and segment.how != "keep"
                with offloaded(pixels.device, folder) if moved else nullcontext():
                    x = self._run_segment(segment, x, place, batch)
                if segment.how == "tile":
                    place = self._part(segment).sizes(place)
            return x

        return run_within(self._model, self._method, through, pixels, sizes)

    def _run_segment(self, segment: Segment, x: Tensor, sizes: Tensor, batch: BatchRegions) -> Tensor:
        modules = [self.module(step) for step in range(segment.start, segment.stop)]
        copied = segment.start > 0 and self.steps[segment.start].in_place
        if segment.how == "tile":
            enter = self._enter if segment.start == 0 else torch.clone if copied else None
            return TiledPart(self._part(segment), modules, self._model.exact_passes, enter, segment.tile_side)(x, sizes)

        def run(x: Tensor) -> Tensor:
            if segment.start == 0:
                x = entered(self._enter(x), batch)
            elif copied:
                x = x.clone()
            for module in modules:
                x = module(x)
            return x

        return checkpoint(run, x, use_reentrant=False) if segment.how == "checkpoint" else run(x)

    def _part(self, segment: Segment) -> Part:
        receptive_fields: list[ReceptiveFields] = []
        for found in self.receptive_fields()[segment.start : segment.stop]:
            if isinstance(found, NotLocalError):
                raise found
            receptive_fields.append(found)
        return Part(tuple(receptive_fields))

    def weigh(self) -> tuple[StepWeight, ...]:
        """What each step costs for each pixel of an image, measured by running small images as in training.

        Running statistics and the state of random numbers are restored afterward.
        """
        device = next(self._model.parameters()).device
        before = [buffer.clone() for buffer in self._model.buffers()]
        with undrawn(device):
            small, large = (self._weigh(side) for side in _WEIGHED_SIDES)
        with torch.no_grad():
            for buffer, value in zip(self._model.buffers(), before):
                buffer.copy_(value)
        num_pixels = _WEIGHED_IMAGES * (_WEIGHED_SIDES[1] ** 2 - _WEIGHED_SIDES[0] ** 2)
        weights, given_stride = [], 1.0
        for step, one, other, found in zip(self.steps, small, large, self.receptive_fields()):
            receptive_fields = () if isinstance(found, NotLocalError) else found
            weights.append(
                StepWeight(
                    given_bytes=max(other[0] - one[0], 0) / num_pixels * (2 if step.in_place else 1),
                    kept_bytes=max(other[1] - one[1], 0) / num_pixels,
                    given_stride=given_stride,
                    stride=max((field.stride for field in receptive_fields), default=0),
                    halo=max((field.before + field.after + 1 - field.stride for field in receptive_fields), default=0),
                )
            )
            given_stride = other[2]
        return tuple(weights)

    def _weigh(self, side: int) -> list[tuple[int, int, float]]:
        """For each step on square images of this side: bytes of its input, bytes kept, and the stride of its output."""
        device = next(self._model.parameters()).device
        shape = (_WEIGHED_IMAGES, self.steps[0].channels, side, side)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
        found: list[tuple[int, int, float]] = []

        def through(batch: BatchRegions) -> Tensor:
            seen = {part.data_ptr() for part in [*self._model.parameters(), *self._model.buffers(), pixels]}
            x, given_bytes = pixels, pixels.numel()
            for step in range(len(self.steps)):
                before = len(seen_bytes)
                with saved_tensors_hooks(lambda tensor: _note(tensor, seen, seen_bytes), lambda tensor: tensor):
                    y = self.module(step)(entered(self._enter(x), batch) if step == 0 else x)
                found.append((given_bytes, sum(seen_bytes[before:]), side / y.shape[2]))
                x, given_bytes = y, y.numel() * y.element_size()
            return x

        seen_bytes: list[int] = []
        run_within(self._model, self._method, through, pixels, torch.tensor([[side, side]] * _WEIGHED_IMAGES))
        return found


def _note(tensor: Tensor, seen: set[int], sizes: list[int]) -> Tensor:
    """Record the bytes of a tensor's memory, the first time that it is saved, and return what the graph saves.

    That is the values without the graph: a map that its own graph saves with that graph is never freed where no
    backward pass follows.
    """
    storage = tensor.untyped_storage()
    if storage.data_ptr() not in seen:
        seen.add(storage.data_ptr())
        sizes.append(storage.nbytes())
    return tensor.detach()
