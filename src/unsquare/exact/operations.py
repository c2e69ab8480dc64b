"""Which ATen operations treat every pixel of a feature map by itself, and how they move its axes.

Only what is listed passes. An operation's effect on values outside the regions does not matter, as they are cleaned
before anything looks sideways, except that it must keep finite values and gradients finite: hence no logarithm,
square root or division of maps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from unsquare.exact.regions import Extent

Lookup = Callable[[Any], "FeatureMap | None"]


@dataclass(frozen=True)
class FeatureMap:
    """What is known of a tensor whose axes include height and width."""

    extent: Extent
    axes: tuple[int, int] = (2, 3)
    clean: bool = False
    """Whether it is the model's own input, which is zero outside the regions already."""

    def __str__(self) -> str:
        (down, step_down), (across, step_across) = self.extent
        return f"floor((h + {down}) / {step_down}) x floor((w + {across}) / {step_across})"

    def dirty(self) -> FeatureMap:
        """The same after an operation that may write outside the regions."""
        return replace(self, clean=False)


class Unknown(Exception):
    """An operation that is not known to be exact; the message completes 'cannot be made exact: '."""


# Each output pixel is a function of the input pixels at the same place (and of per-image or constant values).
_ELEMENTWISE_NAMES = """
    add add_ sub sub_ rsub mul mul_ neg addcmul addcmul_ where lerp minimum maximum
    clamp clamp_ clamp_min clamp_min_ clamp_max clamp_max_
    relu relu_ leaky_relu leaky_relu_ prelu _prelu_kernel elu elu_ celu selu gelu gelu_ silu silu_ mish mish_
    hardswish hardswish_ hardsigmoid hardsigmoid_ hardtanh hardtanh_ sigmoid sigmoid_ tanh tanh_ softplus
    native_dropout dropout dropout_ bernoulli bernoulli_
    clone detach alias contiguous _to_copy lift_fresh copy_
    empty_like zeros_like ones_like full_like rand_like
"""
_ELEMENTWISE = frozenset(_ELEMENTWISE_NAMES.split())
# Divisors must not be maps: outside the regions they may be zero.
_DIVISION = frozenset({"div", "div_"})
# New tensors that take only type and device from the map.
_FACTORIES = frozenset({"new_empty", "new_zeros", "new_ones", "new_full"})
_CHANNEL_REDUCTIONS = frozenset({"mean", "sum", "var", "amax", "amin", "var_mean"})
_PER_PIXEL_MOMENTS = frozenset({"rsqrt", "rsqrt_", "pow", "square"})
_REASONS = {
    "reflection_pad2d": "reflect padding takes its values from inside the image's own edge",
    "replication_pad2d": "replicate padding repeats the image's own edge",
    "constant_pad_nd": "padding by a separate step, as for 'same', depends on the size's parity",
    "convolution": "it convolves outside a plain nn.Conv2d",
    "mean": "it averages over space",
    "sum": "it sums over space",
    "amax": "it takes a maximum over space",
    "native_batch_norm": "it computes batch norm outside a plain nn.BatchNorm2d",
    "native_group_norm": "it normalises over space",
    "max_pool2d_with_indices": "it pools outside a plain nn.MaxPool2d",
    "avg_pool2d": "it pools outside a plain nn.AvgPool2d",
    "_adaptive_avg_pool2d": "it bins the canvas",
    "bmm": "it mixes pixels by attention or a matrix product",
    "mm": "it mixes pixels by a matrix product",
    "_softmax": "it normalises by softmax",
    "view": "it reshapes the map, as attention over pixels does",
    "_unsafe_view": "it reshapes the map, as attention over pixels does",
    "upsample_bilinear2d": "it interpolates between pixels",
    "upsample_nearest2d": "it interpolates between pixels",
}


def follow(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, lookup: Lookup) -> FeatureMap | None:
    """The feature map that an operation returns, from those it is given.

    Args:
        func: The ATen operation.
        args: Its arguments.
        kwargs: Its keyword arguments.
        result: What it returned.
        lookup: Gives the feature map of a tensor, or None.

    Returns:
        The map, or None where no map comes out. Raises Unknown where the operation may mix pixels.
    """
    name = func._schema.name.removeprefix("aten::")
    if name in _ELEMENTWISE:
        return _elementwise(name, (args, kwargs), lookup)
    if name in _DIVISION:
        if lookup(args[1]) is not None:
            raise Unknown("it divides by a feature map, which may be zero outside the regions")
        return _elementwise(name, args, lookup)
    if name in _FACTORIES:
        return None
    given = lookup(args[0]) if args else None
    if given is not None:
        if name in _PER_PIXEL_MOMENTS:
            return given.dirty()
        axes = _moved_axes(name, given, args, kwargs, result)
        if axes is not None:
            return replace(given, axes=axes, clean=False)
    raise Unknown(_REASONS.get(name, f"it uses {name} on a feature map, which is not known to keep pixels apart"))


def _elementwise(name: str, values: Any, lookup: Lookup) -> FeatureMap:
    tensors = [value for value in tree_leaves(values) if isinstance(value, Tensor)]
    maps = [found for found in map(lookup, tensors) if found is not None]
    first = maps[0].dirty()
    if any(other.dirty() != first for other in maps):
        raise Unknown(
            f"it joins ({name}) feature maps whose regions differ ({', '.join(str(m) for m in maps)}), which fails "
            "on an image alone as well, unless its size happens to suit"
        )
    num_axes = max(tensor.ndim for tensor in tensors)
    for tensor in tensors:
        if lookup(tensor) is None:
            for axis in first.axes:
                own = axis - num_axes + tensor.ndim
                if own >= 0 and tensor.shape[own] != 1:
                    raise Unknown(f"it joins ({name}) the map with values that differ from place to place")
    return first


def _moved_axes(
    name: str, given: FeatureMap, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
) -> tuple[int, int] | None:
    """Where height and width are afterwards; None where the operation does not keep them whole."""
    x = args[0]
    if name == "permute":
        order = [axis % x.ndim for axis in args[1]]
        return order.index(given.axes[0]), order.index(given.axes[1])
    if name == "transpose":
        swap = {args[1] % x.ndim: args[2] % x.ndim, args[2] % x.ndim: args[1] % x.ndim}
        return swap.get(given.axes[0], given.axes[0]), swap.get(given.axes[1], given.axes[1])
    if name in {"view", "_unsafe_view", "expand"} and result.shape == x.shape:
        return given.axes
    if name == "native_layer_norm" and max(given.axes) < x.ndim - len(args[1]):
        return given.axes
    if name in _CHANNEL_REDUCTIONS and _reduces_channels(given, x, args, kwargs, result):
        return given.axes
    return None


def _reduces_channels(given: FeatureMap, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
    """Whether a reduction leaves height and width as they are, and in their places."""
    reduced = tree_leaves(result)[0]
    sizes = [x.shape[axis] for axis in given.axes]
    return reduced.ndim == x.ndim and [reduced.shape[axis] for axis in given.axes] == sizes
