"""Fills what lies outside the regions, and reduces over what lies inside.

A fill writes into the map itself, behind autograd's version counters. That is sound here and only here: the
values written lie outside every region, where the gradient is zero by construction (each operation that looks
sideways cleans its own input's gradient), and in-place or out-of-place, an elementwise neighbor that saved the
map multiplies that zero by a finite number. The alternative, a mask multiplied onto each map, costs a full read
and write per layer, forward and backward, for a twentieth of the pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unsquare.exact.ops import masks
from unsquare.exact.regions import Regions


def rows(x: Tensor) -> Tensor | None:
    """A channels-last map (N, C, H, W) seen as its pixels (N * H * W, C), or None where memory is not so."""
    if not x.is_contiguous(memory_format=torch.channels_last):
        return None
    return x.permute(0, 2, 3, 1).view(-1, x.shape[1])


@torch.no_grad()
def fill(x: Tensor, regions: Regions, value: float) -> None:
    """Write a value into all pixels of a map (N, C, H, W) outside the regions, unseen by autograd."""
    pixels = rows(x.data)
    if pixels is None:
        x.data.masked_fill_(~regions.inside, value)
    else:
        pixels.index_fill_(0, regions.outside, value)


class _Clean(torch.autograd.Function):
    """Zero outside the regions, and so the gradient; in place, for a map read by one operation only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, regions: Regions) -> Tensor:
        """Zero the outside of the map and return the map."""
        ctx.regions = regions
        fill(x, regions, 0.0)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Zero the outside of the gradient, which the one reader has just made."""
        if torch.is_grad_enabled():  # a graph of this backward is wanted: leave its tensors alone
            grad = grad.clone()
        return _Clean.apply(grad, ctx.regions), None


class _CleanCopy(torch.autograd.Function):
    """As `_Clean`, for a map whose readers are unknown: the gradient may be shared and is copied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, regions: Regions) -> Tensor:
        """Zero the outside of the map and return the map."""
        ctx.regions = regions
        fill(x, regions, 0.0)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Zero the outside of a copy of the gradient."""
        return _Clean.apply(grad.clone(memory_format=torch.channels_last), ctx.regions), None


class _Mean(torch.autograd.Function):
    """The mean over each image's region."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, regions: Regions) -> Tensor:
        """Sum with zeros outside, and divide by each image's own count."""
        fill(x, regions, 0.0)
        ctx.regions, ctx.shape, ctx.dtype = regions, x.shape, x.dtype
        sums = x.sum(dim=(2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
        return (sums / regions.counts[:, None]).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Spread the gradient evenly over the region."""
        each = (grad / ctx.regions.counts[:, None]).to(ctx.dtype)
        spread = torch.empty(ctx.shape, dtype=ctx.dtype, device=grad.device, memory_format=torch.channels_last)
        spread.copy_(each[:, :, None, None])
        fill(spread, ctx.regions, 0.0)
        return spread, None


class _Max(torch.autograd.Function):
    """The maximum over each image's region; ties share the gradient, as in `Tensor.amax`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, regions: Regions) -> Tensor:
        """Maximum with minus infinity outside."""
        fill(x, regions, float("-inf"))
        peak = x.amax(dim=(2, 3))
        fill(x, regions, 0.0)
        ctx.regions = regions
        ctx.save_for_backward(x, peak)
        return peak

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Share the gradient among the region's pixels that reach the maximum."""
        x, peak = ctx.saved_tensors
        ties = (x == peak[:, :, None, None]).to(grad.dtype)
        fill(ties, ctx.regions, 0.0)
        return ties * (grad / ties.sum(dim=(2, 3)))[:, :, None, None], None


def clean(x: Tensor, regions: Regions | None, *, shared: bool = False) -> Tensor:
    """A map (N, C, H, W) with zeros outside the regions, whose gradient is zero there too.

    `shared` says that the result may have several readers, or readers unknown.
    """
    if regions is None:
        return x
    if regions.masked:
        return masks.filled_outside(x, regions, 0.0)
    return (_CleanCopy if shared else _Clean).apply(x, regions)


def region_mean(x: Tensor, regions: Regions | None) -> Tensor:
    """The mean over each image's region, (N, C)."""
    if regions is None:
        return x.mean(dim=(2, 3))
    return masks.mean(x, regions) if regions.masked else _Mean.apply(x, regions)


def region_max(x: Tensor, regions: Regions | None) -> Tensor:
    """The maximum over each image's region, (N, C)."""
    if regions is None:
        return x.amax(dim=(2, 3))
    return masks.lowest_outside(x, regions).amax(dim=(2, 3)) if regions.masked else _Max.apply(x, regions)


def zero_outside(x: Tensor, regions: Regions | None) -> Tensor:
    """A map with zeros outside the regions, whose gradient is zero there as it is."""
    if regions is None:
        return x
    if regions.masked:
        return masks.filled_outside(x, regions, 0.0)
    fill(x, regions, 0.0)
    return x


def applied_with_outside(
    x: Tensor, regions: Regions | None, value: float, operation: Callable[[Tensor], Tensor]
) -> Tensor:
    """What an operation makes of a map with a value outside the regions, whose gradient is zero there as it is."""
    if regions is None:
        return operation(x)
    if regions.masked:
        lowest = value == float("-inf")
        return operation(masks.lowest_outside(x, regions) if lowest else masks.filled_outside(x, regions, value))
    fill(x, regions, value)
    y = operation(x)
    fill(x, regions, 0.0)
    return y
