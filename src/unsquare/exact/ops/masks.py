"""Regions by whole-tensor masks and ordinary autograd: what compiled graphs use, and the reference for `strips`.

Nothing here depends on numbers that the host knows, so a graph compiled for a canvas serves all images on it, and a
compiler melts each mask into the neighboring operations. Run eagerly, each mask costs a pass over its map, forward
and backward, where `strips` writes a twentieth of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unsquare.exact.regions import Regions


def filled_outside(x: Tensor, regions: Regions, value: float) -> Tensor:
    """A map (N, C, H, W) with a value outside the regions."""
    return torch.where(regions.inside, x, value)


def lowest_outside(x: Tensor, regions: Regions) -> Tensor:
    """A map (N, C, H, W) with the lowest finite value outside the regions, for maxima.

    Minus infinity would do but for windows that see nothing else: a compiled max-pool takes the maximum of such a
    window to be in the padding, and its backward pass fails on that place.
    """
    return filled_outside(x, regions, torch.finfo(x.dtype).min)


def mean(x: Tensor, regions: Regions) -> Tensor:
    """The mean over each image's region, (N, C)."""
    sums = filled_outside(x, regions, 0.0).sum(dim=(2, 3), dtype=_wide(x))
    return (sums / regions.counts[:, None]).to(x.dtype)


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, regions: Regions
) -> tuple[Tensor, Tensor, Tensor]:
    """The map normalized over all real pixels, their mean and their biased variance, (C,)."""
    count = regions.counts.sum()
    wide = filled_outside(x, regions, 0.0).to(_wide(x))
    mean = wide.sum(dim=(0, 2, 3)) / count
    centered = filled_outside(wide - mean[:, None, None], regions, 0.0)
    variance = centered.square().sum(dim=(0, 2, 3)) / count
    y = _affine(centered * (variance + eps).rsqrt()[:, None, None], weight, bias)
    return y.to(x.dtype), mean.detach(), variance.detach()


def group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, num_groups: int, eps: float, regions: Regions
) -> Tensor:
    """The map with each image's groups of channels normalized over its region."""
    inside = regions.inside[:, None]
    grouped = x.to(_wide(x)).unflatten(1, (num_groups, -1))  # (N, G, C / G, H, W)
    size = regions.counts[:, None, None, None, None] * grouped.shape[2]
    mean = torch.where(inside, grouped, 0.0).sum(dim=(2, 3, 4), keepdim=True) / size
    centered = torch.where(inside, grouped - mean, 0.0)
    variance = centered.square().sum(dim=(2, 3, 4), keepdim=True) / size
    return _affine((centered * (variance + eps).rsqrt()).flatten(1, 2), weight, bias).to(x.dtype)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        x = x * weight[:, None, None]
    return x if bias is None else x + bias[:, None, None]


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
