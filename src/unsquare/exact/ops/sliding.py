"""Sliding windows over padded maps: each finds at a region's edge what it finds at the edge of the image alone.

Layers (`layers.window`) and functional calls (`functions`) share these. Each takes the stock operation as a function of
the map alone, and the site at which it happens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unsquare.exact.ops.strips import applied_with_outside, clean, zero_outside
from unsquare.exact.regions import Regions, Site
from unsquare.shapes import Window

WindowPair = tuple[Window, Window]
"""A sliding operation along the height and along the width."""

KEEPS_SIZE: WindowPair = (Window(1), Window(1))
"""The windows of a layer that keeps every region."""

MapOperation = Callable[[Tensor], Tensor]
"""A stock operation as a function of the map alone."""


def window_pair(kernel: Any, stride: Any, padding: Any, dilation: Any = 1, *, ceil_mode: bool = False) -> WindowPair:
    """Windows from PyTorch's arguments, each a number or a pair."""
    pairs = [
        value if isinstance(value, (tuple, list)) else (value, value) for value in (kernel, stride, padding, dilation)
    ]
    pairs = [tuple(pair) * (3 - len(pair)) for pair in pairs]  # a list of one number stands for both axes
    first, second = (Window(*[pair[axis] for pair in pairs])._replace(ceil_mode=ceil_mode) for axis in (0, 1))
    return first, second


def convolved(x: Tensor, site: Site, operation: MapOperation) -> Tensor:
    """A convolution (N, C, H, W), which finds zeros outside each region."""
    return operation(x if site.clean else clean(x, site.regions(x)))


def max_pooled(x: Tensor, site: Site, operation: MapOperation) -> Tensor:
    """A max-pool, which finds minus infinity outside each region.

    It needs no cleaning of its gradient: that goes to the maximum of each real window, a real pixel.
    """
    y = applied_with_outside(x, site.regions(x), float("-inf"), operation)
    return zero_outside(y, site.regions_after(y))


def avg_pooled(
    x: Tensor, site: Site, operation: MapOperation, sides: WindowPair, *, include_padding: bool, own_divisor: bool
) -> Tensor:
    """An average pool, which divides by the count that the image alone would have had.

    Args:
        x: The map (N, C, H, W).
        site: Where it happens.
        operation: The stock pool.
        sides: Its windows.
        include_padding: Whether it counts padded positions.
        own_divisor: Whether its divisor is given instead.
    """
    regions = site.regions(x)
    if regions is None:
        return operation(x)
    y = operation(clean(x, regions))
    padded = any(window.padding for window in sides)
    if own_divisor or (not sides[0].ceil_mode and (include_padding or not padded)):
        return y  # every window counts alike
    shape = (y.shape[2], y.shape[3])
    key = ("counts", sides, include_padding, y.dtype)
    return y * site.recall(x, key, lambda: _count_ratio(regions, shape, sides, include_padding).to(y.dtype))


def _count_ratio(regions: Regions, shape: tuple[int, int], sides: WindowPair, include_padding: bool) -> Tensor:
    """Pixels counted on the canvas / pixels counted alone, (N, 1, H, W) of the output."""
    ratios = []
    for axis, window in enumerate(sides):
        alone = regions.on_device[:, axis, None]
        canvas = torch.full_like(alone, regions.canvas[axis])
        counts = [_counted(n, window, shape[axis], include_padding) for n in (canvas, alone)]
        ratios.append(counts[0].double() / counts[1])
    return ratios[0][:, None, :, None] * ratios[1][:, None, None, :]


def _counted(lengths: Tensor, window: Window, num_outputs: int, include_padding: bool) -> Tensor:
    """How many positions each window counts along an axis of these lengths (N, 1): (N, num_outputs)."""
    start = torch.arange(num_outputs, device=lengths.device) * window.stride - window.padding
    end = torch.minimum(start + window.kernel, lengths + window.padding)
    if not include_padding:
        start, end = start.clamp(min=0), torch.minimum(end, lengths)
    return (end - start).clamp(min=1)  # windows beyond the region count nothing, and are not read
