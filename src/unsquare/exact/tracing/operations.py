"""Which ATen operations treat every pixel of a feature map by itself.

Only what is listed passes, here and in `moves`. An operation's effect on values outside the regions does not matter,
as they are cleared before anything reads neighboring pixels, except that finite values and gradients must stay
finite: roots and logarithms of maps and divisions by them pass only where they are known to stay above zero
everywhere, as squares plus a constant do, and exponentials only of maps that are known to stay below a bound.
"""

from __future__ import annotations

from dataclasses import replace
from math import e, inf, isfinite, log10
from typing import Any

import torch
from torch import Tensor

from unsquare.exact.extent import Extent
from unsquare.exact.tracing.feature_maps import FeatureMap, TracedTensors
from unsquare.exact.tracing.moves import MOVES, axes_after
from unsquare.torch_private import tree_leaves


class InexactOperation(Exception):
    """An operation that is not known to be exact; the message completes 'cannot be made exact: '."""


class AmbiguousOperation(InexactOperation):
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
# What results are never above.
_UPPER_BOUNDS = {
    **dict.fromkeys(("sigmoid", "sigmoid_", "hardsigmoid", "hardsigmoid_", "tanh", "tanh_", "_softmax"), 1.0),
    **dict.fromkeys(("log_sigmoid_forward", "_log_softmax"), 0.0),
}
# Results that are no lower and no higher than what they are made of.
_WITHIN = frozenset({"mean", "amax", "amin", "expand", "clone"})
# New tensors that take only type and device from the map.
_FACTORIES = frozenset({"new_empty", "new_zeros", "new_ones", "new_full"})
# Powers by name, with their exponents.
_POWERS = {"square": 2.0, "sqrt": 0.5, "rsqrt": -0.5, "rsqrt_": -0.5, "reciprocal": -1.0}
_LOGARITHMS = frozenset({"log", "log2", "log10"})
# A slope that any gradient outside the regions, zero as it is, can be multiplied by in single precision. A quotient's
# is the dividend over the divisor's square: divisors must be above 1e-15, and dividends up to 1e8 leave it finite even
# there. Slopes do not add up from step to step, since each is multiplied by the zero that the one before left. Bounds
# below 1e-30 count as zero, which single precision may take them for.
_STEEPEST = 30  # as a power of ten
_RESHAPES = (
    "it reshapes the map across height and width, together with other axes, as attention over pixels does; mix "
    "channels by nn.Linear or a 1 x 1 convolution, and turn blocks of pixels into channels by F.pixel_unshuffle"
)
_REASONS = {
    "native_batch_norm": "it computes batch norm outside a plain nn.BatchNorm2d",
    "native_group_norm": "it normalizes over space by a functional call; use nn.GroupNorm",
    "bmm": "it mixes pixels by attention or a matrix product; mix channels by nn.Linear or a 1 x 1 convolution",
    "mm": "it mixes pixels by a matrix product; mix channels by nn.Linear or a 1 x 1 convolution",
    "_softmax": "it normalizes over pixels by softmax",
    "view": _RESHAPES,
    "_unsafe_view": _RESHAPES,
    "reflection_pad2d": "it pads by a call that is not F.pad; use F.pad",
    "constant_pad_nd": "it pads by a call that is not F.pad; use F.pad",
    "max_pool2d_with_indices": "it returns indices, which count positions on the padded canvas",
    "select": "it selects single rows, columns or images",
}


def follow(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, maps: TracedTensors
) -> FeatureMap | None:
    """The feature map that an operation returns, from those it is given.

    Args:
        func: The ATen operation.
        args: Its arguments.
        kwargs: Its keyword arguments.
        result: What it returned.
        maps: The feature maps so far.

    Returns:
        The map, or None where no map comes out. Raises InexactOperation where the operation may mix pixels.
    """
    name = name_of(func)
    if name in _FILLING and not (isinstance(args[2], (int, float)) and isfinite(args[2])):
        raise InexactOperation("it fills parts of a feature map with infinity or with a tensor; use a finite number")
    if name in _ELEMENTWISE:
        return _bounded(_joined(name, (args, kwargs), maps), name, args, kwargs, maps)
    if name in _DIVISION:
        divisor = maps.get(args[1])
        if divisor is not None and not _stays_finite(divisor.lower, -1.0):
            raise InexactOperation(
                "it divides by a feature map, which may be zero outside the regions; add a positive constant to "
                "squares or absolute values, or clamp the map to a positive minimum, just before"
            )
        return _bounded(_joined(name, args, maps), name, args, kwargs, maps)
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
            return replace(_joined(name, args, maps), lower=_power(given, args[1]).lower)
        if name in _LOGARITHMS or name in ("log1p", "exp"):
            return _logarithm_or_exponential(name, given)
        if name == "slice":
            return _slice(given, *args)
        if name in ("index", "index_select"):
            return _picked(given, args[0], _places(name, args), maps)
        move = MOVES.get(name)
        axes = None if move is None else move(given.axes, args[0], args, kwargs, result)
        if axes is not None and 0 not in axes and tree_leaves(result)[0].shape[0] == args[0].shape[0]:
            return _bounded(given.moved(axes), name, args, kwargs, maps)
    raise InexactOperation(
        _REASONS.get(name, f"it uses {name} on a feature map, which is not known to treat pixels separately")
    )


def name_of(func: Any) -> str:
    """The name of an ATen operation, the same for all its overloads; operations of others have their namespace."""
    return func.name().partition(".")[0].removeprefix("aten::")


def makes_new(func: Any) -> bool:
    """Whether an operation takes only type and device from the tensor that it is given."""
    return name_of(func) in _FACTORIES


def takes_root(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operation is a power, or logarithm, whose slope is infinite at zero."""
    name = name_of(func)
    if name in _LOGARITHMS:
        return True
    exponent = args[1] if name == "pow" else _POWERS.get(name, 1.0)
    return isinstance(exponent, Tensor) or exponent < 1


def above_zero(func: Any, args: tuple[Any, ...], result: Any, maps: TracedTensors) -> list[Tensor]:
    """The maps of an operation into which no zeros may be written: its value, or its slope, is infinite there."""
    name = name_of(func)
    if name in _DIVISION:
        return [args[1]] if maps.get(args[1]) is not None else []
    if name in ("sqrt", "amax", "amin"):  # their slopes are calculated from their results
        return [args[0], result] if name == "sqrt" else [result]
    return [args[0]] if takes_root(func, args) else []


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
    if name_of(func) in _SHAPING:
        found = [leaf for leaf in found if isinstance(leaf, float)]
    held = (leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.device.type == "cpu" and leaf.numel() == 1)
    return (*found, *(float(leaf) for leaf in held))


def _joined(name: str, values: Any, maps: TracedTensors) -> FeatureMap:
    """The map that comes of maps, and of values that are the same in all places."""
    tensors = [value for value in tree_leaves(values) if isinstance(value, Tensor)]
    num_axes = max(tensor.ndim for tensor in tensors)
    first: FeatureMap | None = None
    for tensor, found in [(tensor, maps.get(tensor)) for tensor in tensors]:
        if found is None:
            continue
        first = first or found.moved()
        if found.axes != first.axes or tensor.ndim != num_axes:
            raise InexactOperation(
                f"it combines ({name}) maps whose height and width are at axes {first.axes} and {found.axes}"
            )
        if found.extent != first.extent:
            maps.join(first.extent, found.extent)
    assert first is not None
    for tensor in tensors:
        own = [axis - num_axes + tensor.ndim for axis in first.axes]
        # An axis of stride zero, as `expand` makes it, holds one value at all its places.
        if maps.get(tensor) is None and any(
            axis >= 0 and tensor.shape[axis] != 1 and tensor.stride(axis) for axis in own
        ):
            raise InexactOperation(f"it combines ({name}) a map with values that depend on the position")
    return first


def _bounded(found: FeatureMap, name: str, args: Any, kwargs: Any, maps: TracedTensors) -> FeatureMap:
    """A map with what is known of its values."""
    upper = max(_upper_bound(name, args, kwargs, maps), 0.0)
    return replace(found, lower=_lower_bound(name, args, kwargs, maps), upper=upper)


def _constant(args: Any, kwargs: Any) -> float | None:
    """The number that is an operation's one further argument."""
    return args[1] if not kwargs and len(args) == 2 and isinstance(args[1], (int, float)) else None


def _upper_bound(name: str, args: Any, kwargs: Any, maps: TracedTensors) -> float:
    """What no value of a result is above: known for what is held, squashed, or minus what has a lower bound."""
    given = maps.get(args[0])
    constant = _constant(args, kwargs)
    if given is None or name in _UPPER_BOUNDS:
        return _UPPER_BOUNDS.get(name, inf)
    if name in ("neg", "neg_"):
        return -given.lower
    if name in ("mul", "mul_", "div", "div_") and constant:
        factor = constant if name.startswith("mul") else 1 / constant
        return factor * (given.upper if factor > 0 else given.lower)
    if name in ("add", "add_", "sub", "sub_") and constant is not None:
        return given.upper + (constant if name.startswith("add") else -constant)
    if name in ("clamp_max", "clamp_max_") and constant is not None:
        return min(given.upper, constant)
    if name in ("clamp", "clamp_", "hardtanh", "hardtanh_") and len(args) == 3 and isinstance(args[2], (int, float)):
        return args[2]
    return given.upper if name in _WITHIN else inf


def _lower_bound(name: str, args: Any, kwargs: Any, maps: TracedTensors) -> float:
    """What no value of a result is below: known for squares, sums of them, and constants added or held to."""
    given = maps.get(args[0])
    if given is None:
        return -inf
    constant = _constant(args, kwargs)
    if name in ("add", "add_") and not kwargs:
        other = maps.get(args[1])
        added = other.lower if other is not None else -inf if constant is None else constant
        # Zeros may have been written where it was above zero, from which a negative constant takes more.
        return (given.lower if added >= 0 else min(given.lower, 0.0)) + added
    if name in ("clamp", "clamp_", "clamp_min", "clamp_min_") and constant is not None:
        return max(given.lower, constant)
    if name in ("relu", "relu_", "abs", "abs_"):
        return max(given.lower, 0.0)
    if name in _NONNEGATIVE or (name == "mul" and args[0] is args[1]):
        return 0.0
    if name in _WITHIN or (name == "sum" and given.lower >= 0):
        return given.lower
    return -inf


def _stays_finite(lower: float, exponent: float) -> bool:
    """Whether a power of values that are not below a lower bound, and its slope, are finite."""
    if exponent >= 1:
        return lower >= 0 or float(exponent).is_integer()
    return lower > 10.0**-_STEEPEST and (exponent - 1) * log10(lower) < _STEEPEST


def _power(given: FeatureMap, exponent: Any) -> FeatureMap:
    """A map to a power, if value and slope stay finite for all that it may hold outside the regions."""
    lower = given.lower
    finite = lower > 0 if isinstance(exponent, Tensor) else _stays_finite(lower, exponent)
    if not finite:
        power = "a tensor of powers" if isinstance(exponent, Tensor) else f"the power {exponent}"
        raise InexactOperation(
            f"it raises a feature map to {power}, which may be infinite or NaN outside the regions; add a positive "
            "constant to squares, or clamp the map to a positive minimum, just before"
        )
    if isinstance(exponent, Tensor) or exponent < 0:
        return replace(given.moved(), lower=0.0 if lower >= 0 else -inf)
    if lower >= 0:  # a bound above one counts as one, lest its power be too large for a number
        return replace(given.moved(), lower=min(lower, 1.0) ** exponent)
    return replace(given.moved(), lower=0.0 if exponent % 2 == 0 else -inf)


def _logarithm_or_exponential(name: str, given: FeatureMap) -> FeatureMap:
    """A map's logarithm or exponential, if value and slope stay finite for all that it may hold outside the regions."""
    if name == "exp":
        if not given.upper * log10(e) < _STEEPEST:
            raise InexactOperation(
                "it takes the exponential of a feature map, which may be infinite outside the regions; clamp the map "
                "from above, just before, or use softmax"
            )
        return replace(given.moved(), lower=0.0)
    if given.lower < 0 or (name != "log1p" and not _stays_finite(given.lower, 0.0)):
        raise InexactOperation(
            "it takes the logarithm of a feature map, which may be infinite outside the regions; add a positive "
            "constant to squares or absolute values, or clamp the map to a positive minimum, just before"
        )
    return given.moved()


def _places(name: str, args: Any) -> dict[int, Tensor]:
    """By which tensors of indices an operation picks, by axis."""
    if name == "index_select":
        return {args[1] % args[0].ndim: args[2]}
    return {axis: places for axis, places in enumerate(args[1]) if places is not None}


def _picked(given: FeatureMap, x: Tensor, places: dict[int, Tensor], maps: TracedTensors) -> FeatureMap:
    """Places on an axis that is not images, height or width, by a list of them that no image has a part in."""
    if len(places) != 1 or not places.keys().isdisjoint((0, *given.axes)):
        raise InexactOperation("it picks images or pixels by index")
    (indices,) = places.values()
    if indices.ndim != 1 or indices.dtype not in (torch.int32, torch.int64) or maps.of_images(indices):
        raise InexactOperation("it picks channels by something other than a fixed list that is the same for all images")
    return given.moved()


def _of_axis(name: str, first: FeatureMap, x: Tensor, parts: Any, axis: int) -> FeatureMap:
    """Maps laid side by side along another axis than height, width and images."""
    axis %= x.ndim + (name == "stack")
    if name == "stack":
        first = first.moved(axes_after(first.axes, (axis,), +1))
    if axis == 0 or axis in first.axes:
        raise InexactOperation(f"it concatenates maps along axis {axis}")
    return first


def _slice(
    given: FeatureMap, x: Tensor, axis: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> FeatureMap:
    """Every step-th row or column from the start on: what a window of one pixel would pick."""
    axis, start = axis % x.ndim, start or 0
    whole = end is None or end >= x.shape[axis]
    if axis not in given.axes:
        if axis == 0 and not (whole and start == 0 and step == 1):
            raise InexactOperation("it selects some of the images")
        return given.moved()
    if start < 0 or not (whole or end < 0):
        raise InexactOperation("it crops at a fixed position of the canvas")
    formulas = list(given.extent)
    place = given.axes.index(axis)
    formulas[place] = formulas[place].then(offset=step - 1 - start + (0 if whole else end), divisor=step)
    return replace(given.moved(), extent=Extent(*formulas))
