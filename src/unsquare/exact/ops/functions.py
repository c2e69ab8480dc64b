"""Functional calls that look sideways, made exact: what `layers` does for modules, for calls within a module's code.

While a model is followed, a rule decides from a call's context and arguments what the call does to the map's region, or
refuses; where it returns None the call is no concern of the rule, and `tracing.operations` judges it. In each pass the
replacement that the rule names takes the place of the call (see `calls`). Rules have the parameters of PyTorch's
functions, under the same names, since models pass them by position and by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unsquare.exact.extent import Extent
from unsquare.exact.ops import norms, paddings, sliding
from unsquare.exact.ops.paddings import StockFunction
from unsquare.exact.ops.relocation import picked_along
from unsquare.exact.ops.strips import clean, region_max, region_mean
from unsquare.exact.pool.pyramid import SpatialPyramidPool
from unsquare.exact.regions import Site
from unsquare.exact.registry import SAME_PADDED
from unsquare.exact.tracing.feature_maps import FeatureMap
from unsquare.exact.tracing.operations import AmbiguousOperation, InexactOperation

Replacement = Callable[..., Tensor]
"""Takes the site, the stock function and the call's own arguments; returns for each image what the stock function gives
it alone."""


@dataclass(frozen=True)
class CallContext:
    """What is known of a call while a model is followed."""

    owner: nn.Module
    """The module whose code makes the call."""
    given: FeatureMap
    """The map that it is given."""
    extents_of: Callable[[tuple[int, int]], frozenset[Extent]]
    """The extents of all maps of a (height, width) so far."""


@dataclass(frozen=True)
class CallHandling:
    """What becomes of a call."""

    after: FeatureMap | None
    """The map returned; None where it is one vector or grid per image."""
    replacement: Replacement | None
    """What takes its place; None where the stock function is right as it is."""
    divisors: tuple[int, int] = (1, 1)
    """Numbers of pixels that must divide the map's height and width, as the stock function demands."""


def conv2d(
    context: CallContext, input: Tensor, weight: Tensor, bias: Tensor | None = None,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> CallHandling:  # fmt: skip
    """A convolution with any weight."""
    _channels_first(context.given)
    kernel = tuple(weight.shape[2:])
    extent = context.given.extent
    if padding == "same":
        step = sliding.window_pair(kernel, 1, 0, dilation)
        extent = extent.grown(*(window.dilation * (window.kernel - 1) for window in step))
    sides = sliding.window_pair(kernel, stride, 0 if isinstance(padding, str) else padding, dilation)
    return CallHandling(FeatureMap(extent.through(sides)), _run_conv2d)


def _run_conv2d(site: Site, function: StockFunction, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return sliding.convolved(input, site, lambda x: function(x, *args, **kwargs))


def max_pool2d(
    context: CallContext, input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
    dilation: Any = 1, ceil_mode: bool = False, return_indices: bool = False,
) -> CallHandling:  # fmt: skip
    """A max-pool."""
    _channels_first(context.given)
    if return_indices:
        raise InexactOperation("it returns indices, which count positions on the padded canvas")
    sides = sliding.window_pair(kernel_size, stride or kernel_size, padding, dilation, ceil_mode=ceil_mode)
    return CallHandling(FeatureMap(context.given.extent.through(sides)), _run_max_pool2d)


def _run_max_pool2d(site: Site, function: StockFunction, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return sliding.max_pooled(input, site, lambda x: function(x, *args, **kwargs))


def avg_pool2d(
    context: CallContext, input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> CallHandling:  # fmt: skip
    """An average pool."""
    _channels_first(context.given)
    sides = sliding.window_pair(kernel_size, stride or kernel_size, padding, ceil_mode=ceil_mode)
    options = {"include_padding": count_include_pad, "own_divisor": bool(divisor_override)}
    return CallHandling(
        FeatureMap(context.given.extent.through(sides)), partial(_run_avg_pool2d, sides=sides, options=options)
    )


def _run_avg_pool2d(
    site: Site,
    function: StockFunction,
    input: Tensor,
    *args: Any,
    sides: sliding.WindowPair,
    options: Any,
    **kwargs: Any,
) -> Tensor:
    return sliding.avg_pooled(input, site, lambda x: function(x, *args, **kwargs), sides, **options)


def mean(
    context: CallContext, input: Tensor, dim: Any = None, keepdim: bool = False, axis: Any = None,
    **kwargs: Any,
) -> CallHandling | None:  # fmt: skip
    """A mean over space."""
    return _reduction(context.given, input, axis if dim is None else dim, partial(_run_reduction, reduce=region_mean))


def amax(
    context: CallContext, input: Tensor, dim: Any = None, keepdim: bool = False, axis: Any = None,
    **kwargs: Any,
) -> CallHandling | None:  # fmt: skip
    """A maximum over space."""
    return _reduction(context.given, input, axis if dim is None else dim, partial(_run_reduction, reduce=region_max))


def total(
    context: CallContext, input: Tensor, dim: Any = None, keepdim: bool = False, axis: Any = None,
    **kwargs: Any,
) -> CallHandling | None:  # fmt: skip
    """A sum over space."""
    return _reduction(context.given, input, axis if dim is None else dim, _run_sum)


def _reduction(given: FeatureMap, x: Tensor, dim: Any, replacement: Replacement) -> CallHandling | None:
    dims = range(x.ndim) if dim is None or dim == () else [dim] if isinstance(dim, int) else dim
    dims = {one % x.ndim for one in dims}
    if not dims & set(given.axes):
        return None
    if dims != set(given.axes) or x.ndim != 4 or 0 in given.axes:
        raise InexactOperation("it reduces over height or width alone, or over other axes as well")
    return CallHandling(None, partial(replacement, axes=given.axes))


def _run_reduction(
    site: Site, function: StockFunction, input: Tensor, *args: Any, reduce: Any, axes: Any, **kwargs: Any
) -> Tensor:
    dim, keepdim, dtype = _reduction_arguments(*args, **kwargs)
    regions = site.regions(input, axes)
    input = input.to(dtype or input.dtype)
    if regions is None:
        return function(input, dim, keepdim)
    reduced = reduce(_as_channels_first(input, axes), regions)
    for side in sorted(axes) if keepdim else ():
        reduced = reduced.unsqueeze(side)
    return reduced


def _reduction_arguments(
    dim: Any = None, keepdim: bool = False, *, axis: Any = None, keepdims: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[Any, bool, torch.dtype | None]:  # fmt: skip
    """The arguments of a reduction, two of which PyTorch takes under NumPy's names as well."""
    return axis if dim is None else dim, keepdim or keepdims, dtype


def _run_sum(site: Site, function: StockFunction, input: Tensor, *args: Any, axes: Any, **kwargs: Any) -> Tensor:
    regions = site.regions(input, axes)
    if regions is not None:
        cleaned = clean(_as_channels_first(input, axes), regions, shared=True)
        input = cleaned.permute(0, 2, 3, 1) if axes == (1, 2) else cleaned
    return function(input, *args, **kwargs)


def group_norm(
    context: CallContext, input: Tensor, num_groups: int, weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5,
) -> CallHandling:  # fmt: skip
    """A group norm."""
    _channels_first(context.given)
    return CallHandling(context.given.moved(), _run_group_norm)


def _run_group_norm(
    site: Site, function: StockFunction, input: Tensor, num_groups: int, weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    regions = site.regions(input)
    if regions is None:
        return function(input, num_groups, weight, bias, eps)
    return norms.group_norm(input, weight, bias, num_groups, eps, regions)


def adaptive_avg_pool2d(context: CallContext, input: Tensor, output_size: Any) -> CallHandling:
    """Means over a grid on each image's own region."""
    return _grid(context.given, output_size, "mean")


def adaptive_max_pool2d(
    context: CallContext, input: Tensor, output_size: Any, return_indices: bool = False
) -> CallHandling:
    """Maxima over a grid on each image's own region."""
    if return_indices:
        raise InexactOperation("it returns indices, which count positions on the padded canvas")
    return _grid(context.given, output_size, "max")


def _grid(given: FeatureMap, output_size: Any, mode: str) -> CallHandling:
    _channels_first(given)
    level, *other = output_size if isinstance(output_size, Sequence) else (output_size,)
    if level is None or any(one != level for one in other):
        raise InexactOperation(f"it pools adaptively to {output_size}, which is not a square grid")
    return CallHandling(None, partial(_run_grid, level=level, mode=mode))


def _run_grid(
    site: Site, function: StockFunction, input: Tensor, *args: Any, level: int, mode: Any, **kwargs: Any
) -> Tensor:
    regions = site.regions(input)
    if regions is None:
        return function(input, *args, **kwargs)
    return SpatialPyramidPool((level,), mode)(input, regions.sizes).unflatten(1, (-1, level, level))


def pad(
    context: CallContext, input: Tensor, pad: Any, mode: str = "constant", value: float | None = None
) -> CallHandling | None:
    """A padding by a step of its own: of a constant, or of what the image has at its edge."""
    if context.given.axes != (input.ndim - 2, input.ndim - 1):
        return None
    if type(context.owner) in SAME_PADDED:
        return _same_pad(context.owner, context.given)
    left, right, top, bottom = [*pad, 0, 0, 0, 0][:4]
    after = FeatureMap(context.given.extent.grown(top + bottom, left + right), context.given.axes)
    if mode == "constant":
        return CallHandling(after, paddings.constant)
    if mode not in ("reflect", "replicate"):
        raise InexactOperation(f"it pads in {mode} mode, which reads the opposite side of the canvas")
    _channels_first(context.given)
    return CallHandling(after, partial(paddings.mirror, pads=(top, bottom, left, right), reflect=mode == "reflect"))


def _same_pad(owner: Any, given: FeatureMap) -> CallHandling:
    """TensorFlow's 'same': as much padding as makes ceil(n / stride) outputs, the smaller half on the left."""
    _channels_first(given)
    sides = sliding.window_pair(owner.kernel_size, owner.stride, 0, getattr(owner, "dilation", 1))
    formulas = []
    for formula, window in zip(given.extent, sides):
        span = window.dilation * (window.kernel - 1) + 1
        whole = formula.then(offset=window.stride - 1, divisor=window.stride)
        formulas.append(whole.then(factor=window.stride, offset=span - window.stride))
    return CallHandling(FeatureMap(Extent(*formulas)), partial(paddings.same, sides=sides))


def interpolate(
    context: CallContext, input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> CallHandling:  # fmt: skip
    """An enlargement, nearest or bilinear, to another map's size or by whole factors."""
    _channels_first(context.given)
    if mode not in ("nearest", "bilinear") or antialias:
        raise InexactOperation(
            f"it interpolates in {mode} mode{' with antialias' if antialias else ''}; use nearest or bilinear"
        )
    if size is None:
        factors = scale_factor if isinstance(scale_factor, Sequence) else (scale_factor, scale_factor)
        if any(factor != int(factor) or factor < 1 for factor in factors):
            raise InexactOperation(f"it interpolates by a factor of {scale_factor}, which is not a whole number")
        after = context.given.extent.scaled(*map(int, factors))
    else:
        shape = tuple(size) if isinstance(size, Sequence) else (size, size)
        found = context.extents_of((int(shape[0]), int(shape[1])))
        if len(found) != 1:
            raise AmbiguousOperation(
                f"it interpolates to {shape}, the size of {len(found)} kinds of maps on this canvas"
            )
        (after,) = found
    return CallHandling(
        FeatureMap(after), partial(_run_interpolate, after=after, mode=mode, corners=bool(align_corners))
    )


def _run_interpolate(
    site: Site,
    function: StockFunction,
    input: Tensor,
    *args: Any,
    after: Extent,
    mode: str,
    corners: bool,
    **kwargs: Any,
) -> Tensor:
    before = site.lengths(input)
    if before is None:
        return function(input, *args, **kwargs)
    batch = site.passes.batch
    assert batch is not None
    assert batch.sizes is not None
    goal, canvas = after.of(batch.sizes).to(input.device), after.of_canvas(batch.canvas)
    before = before.to(input.device)
    for axis in (0, 1):
        input = _resampled(input, 2 + axis, before[:, axis], goal[:, axis], canvas[axis], mode, corners)
    return input


def _resampled(x: Tensor, axis: int, before: Tensor, goal: Tensor, length: int, mode: str, corners: bool) -> Tensor:
    """A map whose axis has this length, each image's part of it going from `before` to `goal` pixels."""
    places = torch.arange(length, device=x.device)[None]  # (1, length)
    before, goal = before[:, None], goal[:, None]
    if mode == "nearest":
        return picked_along(x, axis, (places * before // goal).clamp(max=x.shape[axis] - 1))
    places = places.to(torch.float64)
    source = places * (before - 1) / (goal - 1).clamp(min=1) if corners else (places + 0.5) * before / goal - 0.5
    source = torch.minimum(source.clamp(min=0), before - 1)
    low = source.floor().to(torch.int64)
    high = torch.minimum(low + 1, before - 1)
    part = (source - low).to(x.dtype)
    part = part[:, None, :, None] if axis == 2 else part[:, None, None, :]
    return torch.lerp(picked_along(x, axis, low), picked_along(x, axis, high), part)


def pixel_unshuffle(context: CallContext, input: Tensor, downscale_factor: int) -> CallHandling:
    """Blocks of pixels become channels."""
    _channels_first(context.given)
    factor = downscale_factor
    after = context.given.extent.through(sliding.window_pair(factor, factor, 0))
    return CallHandling(FeatureMap(after), None, divisors=(factor, factor))


def pixel_shuffle(context: CallContext, input: Tensor, upscale_factor: int) -> CallHandling:
    """Channels become blocks of pixels."""
    _channels_first(context.given)
    return CallHandling(FeatureMap(context.given.extent.scaled(upscale_factor, upscale_factor)), None)


def _channels_first(given: FeatureMap) -> None:
    if given.axes != (2, 3):
        raise InexactOperation(f"it is given a map with height and width at axes {given.axes}, and not (2, 3)")


def _as_channels_first(x: Tensor, axes: tuple[int, int]) -> Tensor:
    return x.permute(0, 3, 1, 2) if axes == (1, 2) else x


RULES: dict[Any, Callable[..., CallHandling | None]] = {
    F.conv2d: conv2d,
    F.max_pool2d: max_pool2d,
    torch.max_pool2d: max_pool2d,
    F.avg_pool2d: avg_pool2d,
    torch.mean: mean,
    Tensor.mean: mean,
    torch.sum: total,
    Tensor.sum: total,
    torch.amax: amax,
    Tensor.amax: amax,
    F.group_norm: group_norm,
    F.adaptive_avg_pool2d: adaptive_avg_pool2d,
    F.adaptive_max_pool2d: adaptive_max_pool2d,
    F.pad: pad,
    F.interpolate: interpolate,
    F.pixel_unshuffle: pixel_unshuffle,
    F.pixel_shuffle: pixel_shuffle,
}
"""The rule of each function, under every name by which PyTorch calls it."""
