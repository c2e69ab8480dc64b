"""Which ATen operations treat every pixel of a feature map by itself, and how they move its axes.

Only what is listed passes. An operation's effect on values outside the regions does not matter, as they are cleaned
before anything looks sideways, except that it must keep finite values and gradients finite: hence no logarithm of
maps, and roots of maps and divisions by them only where they are known to stay above zero everywhere, as squares plus a
constant do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf, isfinite, log10
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from unsquare.exact.extent import Extent

Axes = tuple[int, int]


@dataclass(frozen=True)
class FeatureMap:
    """What is known of a tensor whose first axis counts images, and two of whose axes are height and width."""

    extent: Extent
    axes: Axes = (2, 3)
    clean: bool = False
    """Whether it is the model's own input, which is zero outside the regions already."""
    floor: float = field(default=-inf, compare=False)
    """What no value is below, outside the regions too, as the operation that made the map left it."""

    def __str__(self) -> str:
        return str(self.extent)

    def moved(self, axes: Axes | None = None) -> FeatureMap:
        """The same after an operation that may write outside the regions, and may move height and width."""
        return replace(self, clean=False, floor=-inf, axes=self.axes if axes is None else axes)


class Maps(Protocol):
    """The feature maps of one run of a model."""

    def get(self, value: Any) -> FeatureMap | None:
        """The map that a value is; None where it is none."""

    def of_images(self, value: Any) -> bool:
        """Whether a tensor's values come from the images'."""

    def join(self, one: Extent, other: Extent) -> None:
        """Note that maps of these extents must be of one size for each image."""


class Unknown(Exception):
    """An operation that is not known to be exact; the message completes 'cannot be made exact: '."""


class Ambiguous(Unknown):
    """What happens cannot be told on the canvas on which the model is followed; on another it may."""


# Each output pixel is a function of the input pixels at the same place (and of per-image or constant values).
_ELEMENTWISE_NAMES = """
    add add_ sub sub_ rsub mul mul_ neg neg_ addcmul addcmul_ where lerp lerp_ minimum maximum
    abs abs_ sgn sgn_ sign sign_ round round_ floor floor_ ceil ceil_ trunc trunc_ frac frac_
    sin sin_ cos cos_ atan atan_ erf erf_ erfc erfc_ nan_to_num nan_to_num_
    gt ge lt le eq ne logical_not logical_and logical_or logical_xor bitwise_not bitwise_and bitwise_or bitwise_xor
    clamp clamp_ clamp_min clamp_min_ clamp_max clamp_max_
    relu relu_ leaky_relu leaky_relu_ prelu _prelu_kernel elu elu_ celu selu gelu gelu_ silu silu_ mish mish_
    hardswish hardswish_ hardsigmoid hardsigmoid_ hardtanh hardtanh_ sigmoid sigmoid_ tanh tanh_ softplus
    hardshrink softshrink log_sigmoid_forward threshold threshold_ masked_fill masked_fill_
    native_dropout dropout dropout_ bernoulli bernoulli_
    clone detach alias contiguous _to_copy lift_fresh copy_
    empty_like zeros_like ones_like full_like rand_like
"""
_ELEMENTWISE = frozenset(_ELEMENTWISE_NAMES.split())
# Divisors that are maps must be known to stay above zero: outside the regions they may be anything.
_DIVISION = frozenset({"div", "div_"})
# What writes its third argument into a map; infinity there is none of the finite values that all else counts on.
_FILLING = frozenset({"masked_fill", "masked_fill_", "threshold", "threshold_"})
# Operations whose results are never below zero.
_NONNEGATIVE_NAMES = "sigmoid sigmoid_ hardsigmoid hardsigmoid_ softplus _softmax var linalg_vector_norm"
_NONNEGATIVE = frozenset(_NONNEGATIVE_NAMES.split())
# New tensors that take only type and device from the map.
_FACTORIES = frozenset({"new_empty", "new_zeros", "new_ones", "new_full"})
# Powers by name, with their exponents.
_POWERS = {"square": 2.0, "sqrt": 0.5, "rsqrt": -0.5, "rsqrt_": -0.5, "reciprocal": -1.0}
# A slope that any gradient outside the regions, zero as it is, can be multiplied by in single precision. A quotient's
# is the dividend over the divisor's square: divisors must be above 1e-15, and dividends up to 1e8 leave it finite even
# there. Slopes do not add up from step to step, since each is multiplied by the zero that the one before left. Floors
# below 1e-30 count as zero, which single precision may take them for.
_STEEPEST = 30  # as a power of ten
_RESHAPES = (
    "it reshapes the map across height and width, together with other axes, as attention over pixels does; mix "
    "channels by nn.Linear or a 1 x 1 convolution, and make blocks of pixels channels by F.pixel_unshuffle"
)
_REASONS = {
    "native_batch_norm": "it computes batch norm outside a plain nn.BatchNorm2d",
    "native_group_norm": "it normalises over space by a functional call; use nn.GroupNorm",
    "bmm": "it mixes pixels by attention or a matrix product; mix channels by nn.Linear or a 1 x 1 convolution",
    "mm": "it mixes pixels by a matrix product; mix channels by nn.Linear or a 1 x 1 convolution",
    "_softmax": "it normalises over pixels by softmax",
    "view": _RESHAPES,
    "_unsafe_view": _RESHAPES,
    "reflection_pad2d": "it pads by a call that is not F.pad",
    "constant_pad_nd": "it pads by a call that is not F.pad",
    "max_pool2d_with_indices": "its indices count positions on the canvas",
    "select": "it picks single rows, columns or images",
}


def follow(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, maps: Maps) -> FeatureMap | None:
    """The feature map that an operation returns, from those it is given.

    Args:
        func: The ATen operation.
        args: Its arguments.
        kwargs: Its keyword arguments.
        result: What it returned.
        maps: The feature maps so far.

    Returns:
        The map, or None where no map comes out. Raises Unknown where the operation may mix pixels.
    """
    name = func._schema.name.removeprefix("aten::")
    if name in _FILLING and not (isinstance(args[2], (int, float)) and isfinite(args[2])):
        raise Unknown("it fills parts of a feature map with infinity or with a tensor; use a finite number")
    if name in _ELEMENTWISE:
        return replace(_joined(name, (args, kwargs), maps), floor=_floor(name, args, kwargs, maps))
    if name in _DIVISION:
        divisor = maps.get(args[1])
        if divisor is not None and not _stays_finite(divisor.floor, -1.0):
            raise Unknown(
                "it divides by a feature map, which may be zero outside the regions; add a positive constant to "
                "squares or absolute values, or clamp the map to one, just before"
            )
        return _joined(name, args, maps)
    if name in _FACTORIES:
        return None
    if name in ("cat", "stack"):
        first = _joined(name, args[0], maps)
        return _of_axis(name, first, args[0][0], args[0], args[1] if len(args) > 1 else 0)
    given = maps.get(args[0]) if args else None
    if given is not None:
        if name in _POWERS:
            return _power(given, _POWERS[name])
        if name == "pow":
            return replace(_joined(name, args, maps), floor=_power(given, args[1]).floor)
        if name == "slice":
            return _slice(given, *args)
        if name in ("index", "index_select"):
            return _picked(given, args[0], _places(name, args), maps)
        move = _MOVES.get(name)
        axes = None if move is None else move(given.axes, args[0], args, kwargs, result)
        if axes is not None and 0 not in axes and tree_leaves(result)[0].shape[0] == args[0].shape[0]:
            return replace(given.moved(axes), floor=_floor(name, args, kwargs, maps))
    raise Unknown(_REASONS.get(name, f"it uses {name} on a feature map, which is not known to keep pixels apart"))


def makes_new(func: Any) -> bool:
    """Whether an operation takes only type and device from the tensor that it is given."""
    return func._schema.name.removeprefix("aten::") in _FACTORIES


def takes_root(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operation is a power whose slope is infinite at zero."""
    name = func._schema.name.removeprefix("aten::")
    exponent = args[1] if name == "pow" else _POWERS.get(name, 1.0)
    return isinstance(exponent, Tensor) or exponent < 1


# Numbers that these take are lengths of axes, and places of rows that `_slice` judges.
_SHAPING_NAMES = """
    view _unsafe_view reshape expand as_strided slice split split_with_sizes arange linspace
    empty empty_strided empty_like zeros ones full new_empty new_empty_strided new_zeros new_ones new_full
"""
_SHAPING = frozenset(_SHAPING_NAMES.split())


def numbers(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The numbers given to an operation that may change what it computes, and not just the shape of its result."""
    leaves = tree_leaves((args, kwargs))
    found = [leaf for leaf in leaves if isinstance(leaf, (int, float)) and not isinstance(leaf, bool)]
    if func._schema.name.removeprefix("aten::") in _SHAPING:
        found = [leaf for leaf in found if isinstance(leaf, float)]
    held = (leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.device.type == "cpu" and leaf.numel() == 1)
    return (*found, *(float(leaf) for leaf in held))


def _joined(name: str, values: Any, maps: Maps) -> FeatureMap:
    """The map that comes of maps, and of values that are the same in all places."""
    tensors = [value for value in tree_leaves(values) if isinstance(value, Tensor)]
    num_axes = max(tensor.ndim for tensor in tensors)
    first: FeatureMap | None = None
    for tensor, found in [(tensor, maps.get(tensor)) for tensor in tensors]:
        if found is None:
            continue
        first = first or found.moved()
        if found.axes != first.axes or tensor.ndim != num_axes:
            raise Unknown(f"it joins ({name}) maps with height and width at axes {first.axes} and {found.axes}")
        if found.extent != first.extent:
            maps.join(first.extent, found.extent)
    assert first is not None
    for tensor in tensors:
        own = [axis - num_axes + tensor.ndim for axis in first.axes]
        # An axis of stride zero, as `expand` makes it, holds one value at all its places.
        if maps.get(tensor) is None and any(
            axis >= 0 and tensor.shape[axis] != 1 and tensor.stride(axis) for axis in own
        ):
            raise Unknown(f"it joins ({name}) the map with values that differ from place to place")
    return first


def _floor(name: str, args: Any, kwargs: Any, maps: Maps) -> float:
    """What no value of a result is below: known for squares, sums of them, and constants added or held to."""
    given = maps.get(args[0])
    if given is None:
        return -inf
    bare = not kwargs and len(args) == 2
    constant = args[1] if bare and isinstance(args[1], (int, float)) else None
    if name in ("add", "add_") and bare:
        other = maps.get(args[1])
        return given.floor + (other.floor if other is not None else -inf if constant is None else constant)
    if name in ("clamp", "clamp_", "clamp_min", "clamp_min_") and constant is not None:
        return max(given.floor, constant)
    if name in ("relu", "relu_", "abs", "abs_"):
        return max(given.floor, 0.0)
    if name in _NONNEGATIVE or (name == "mul" and args[0] is args[1]):
        return 0.0
    if name in ("mean", "amax", "amin", "expand", "clone") or (name == "sum" and given.floor >= 0):
        return given.floor
    return -inf


def _stays_finite(floor: float, exponent: float) -> bool:
    """Whether a power of values that are not below a floor, and its slope, are finite."""
    if exponent >= 1:
        return floor >= 0 or float(exponent).is_integer()
    return floor > 10.0**-_STEEPEST and (exponent - 1) * log10(floor) < _STEEPEST


def _power(given: FeatureMap, exponent: Any) -> FeatureMap:
    """A map to a power, if value and slope stay finite for all that it may hold outside the regions."""
    floor = given.floor
    finite = floor > 0 if isinstance(exponent, Tensor) else _stays_finite(floor, exponent)
    if not finite:
        power = "a tensor of powers" if isinstance(exponent, Tensor) else f"the power {exponent}"
        raise Unknown(
            f"it raises a feature map to {power}, which may be infinite or nothing outside the regions; add a positive "
            "constant to squares, or clamp the map to one, just before"
        )
    if isinstance(exponent, Tensor) or exponent < 0:
        return replace(given.moved(), floor=0.0 if floor >= 0 else -inf)
    if floor >= 0:  # a floor above one counts as one, lest its power be too large for a number
        return replace(given.moved(), floor=min(floor, 1.0) ** exponent)
    return replace(given.moved(), floor=0.0 if exponent % 2 == 0 else -inf)


def _places(name: str, args: Any) -> dict[int, Tensor]:
    """By which tensors of indices an operation picks, by axis."""
    if name == "index_select":
        return {args[1] % args[0].ndim: args[2]}
    return {axis: places for axis, places in enumerate(args[1]) if places is not None}


def _picked(given: FeatureMap, x: Tensor, places: dict[int, Tensor], maps: Maps) -> FeatureMap:
    """Places on an axis that is not images, height or width, by a list of them that no image has a part in."""
    if len(places) != 1 or not places.keys().isdisjoint((0, *given.axes)):
        raise Unknown("it picks images or pixels by index")
    (indices,) = places.values()
    if indices.ndim != 1 or indices.dtype not in (torch.int32, torch.int64) or maps.of_images(indices):
        raise Unknown("it picks channels otherwise than by a fixed list of them, the same for all images")
    return given.moved()


def _of_axis(name: str, first: FeatureMap, x: Tensor, parts: Any, axis: int) -> FeatureMap:
    """Maps laid side by side along another axis than height, width and images."""
    axis %= x.ndim + (name == "stack")
    if name == "stack":
        first = first.moved(_shifted(first.axes, (axis,), +1))
    if axis == 0 or axis in first.axes:
        raise Unknown(f"it lays maps side by side along axis {axis}")
    return first


def _slice(
    given: FeatureMap, x: Tensor, axis: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> FeatureMap:
    """Every step-th row or column from the start on: what a window of one pixel would pick."""
    axis, start = axis % x.ndim, start or 0
    whole = end is None or end >= x.shape[axis]
    if axis not in given.axes:
        if axis == 0 and not (whole and start == 0 and step == 1):
            raise Unknown("it picks some of the images")
        return given.moved()
    if start < 0 or not (whole or end < 0):
        raise Unknown("it cuts at a place of the canvas")
    reaches = list(given.extent)
    place = given.axes.index(axis)
    reaches[place] = reaches[place].then(offset=step - 1 - start + (0 if whole else end), divisor=step)
    return replace(given.moved(), extent=Extent(*reaches))


def _shifted(axes: Axes, places: tuple[int, ...], by: int) -> Axes:
    """Axes after one was put in at a place (by = 1), or some were taken out (by = -1)."""
    down, across = (axis + by * sum(place < axis + (by > 0) for place in places) for axis in axes)
    return down, across


def _permute(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    order = [axis % x.ndim for axis in args[1]]
    return (order.index(axes[0]), order.index(axes[1])) if order[0] == 0 else None


def _transpose(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    one, other = args[1] % x.ndim, args[2] % x.ndim
    swap = {one: other, other: one}
    return None if 0 in swap else (swap.get(axes[0], axes[0]), swap.get(axes[1], axes[1]))


def _view(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    """An axis stays itself where it has the same length and as many values before it."""
    places: dict[tuple[int, int], int] = {}
    before = 1
    for place, length in enumerate(result.shape):
        places.setdefault((before, length), place)
        before *= length
    found = [places.get((x.shape[:axis].numel(), x.shape[axis])) for axis in axes]
    return None if None in found else (found[0], found[1])  # type: ignore[return-value]


def _expand(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    kept = all(result.shape[axis] == x.shape[axis] for axis in axes)
    return axes if result.ndim == x.ndim and kept else None


def _layer_norm(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    return axes if max(axes) < x.ndim - len(args[1]) else None


def _along(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    """What mixes values along one axis, the last one unless it is named."""
    return axes if (args[1] if len(args) > 1 else -1) % x.ndim not in (0, *axes) else None


def _flip(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    return axes if not {axis % x.ndim for axis in args[1]} & {0, *axes} else None


def _roll(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    moved = {axis % x.ndim for axis in (args[2] if len(args) > 2 else ())}
    return axes if moved and not moved & {0, *axes} else None


def _repeat(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    return axes if result.ndim == x.ndim and all(args[1][axis] == 1 for axis in (0, *axes)) else None


def _shuffle(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    return axes if 1 not in axes else None


def _norm(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    """A vector's length, whose gradient PyTorch takes to be zero where the vector is."""
    if len(args) < 3 or args[1] not in (1, 2):
        return None
    return _reduce(axes, x, (x, args[2]), kwargs, result)


def _split(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    axis = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % x.ndim
    return axes if axis not in (0, *axes) else None


def _pick(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    axis = (args[1] if len(args) > 1 else 0) % x.ndim
    return _shifted(axes, (axis,), -1) if axis not in (0, *axes) else None


def _unsqueeze(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    axis = args[1] % (x.ndim + 1)
    return _shifted(axes, (axis,), +1) if axis else None


def _squeeze(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    return axes if result.ndim == x.ndim else _pick(axes, x, args, kwargs, result)


def _reduce(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    """A reduction over channels, or any axes but images, height and width."""
    given = args[1] if len(args) > 1 else kwargs.get("dim")
    if given is None:
        return None
    reduced = {axis % x.ndim for axis in ([given] if isinstance(given, int) else given)}
    if reduced & {0, *axes} or not reduced:
        return None
    kept = tree_leaves(result)[0].ndim == x.ndim
    return axes if kept else _shifted(axes, tuple(reduced), -1)


_Move = Callable[[Axes, Tensor, Any, Any, Any], "Axes | None"]
_MOVES: dict[str, _Move] = {
    "permute": _permute,
    "transpose": _transpose,
    "view": _view,
    "_unsafe_view": _view,
    "expand": _expand,
    "native_layer_norm": _layer_norm,
    **dict.fromkeys(("_softmax", "_log_softmax", "glu"), _along),
    "flip": _flip,
    "roll": _roll,
    "repeat": _repeat,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), _shuffle),
    "linalg_vector_norm": _norm,
    "split": _split,
    "split_with_sizes": _split,
    "unbind": _pick,
    "select": _pick,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    **dict.fromkeys(("mean", "sum", "var", "amax", "amin", "var_mean", "max", "min"), _reduce),
}
"""Operations that keep pixels apart but may move the axes; each says where height and width are afterwards."""
