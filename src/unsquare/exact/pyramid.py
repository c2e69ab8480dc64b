"""Spatial pyramid pooling: one vector of fixed length from a feature map of any shape.

He et al., Spatial Pyramid Pooling in Deep Convolutional Networks, 2014, section 2.2. Each level cuts an image's own
region into a grid, with the bins of PyTorch's adaptive pools: bin i of l over a length n runs from floor(i n / l)
to ceil((i + 1) n / l), so bins may overlap by a row or column, and a region smaller than the grid repeats pixels.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unsquare.errors import ConfigError


class SpatialPyramidPool(nn.Module):
    """Pools each image's region of a feature map into grids of several levels.

    Args:
        levels: Bins along each side, per level.
        mode: "max", or "mean".
    """

    def __init__(self, levels: tuple[int, ...] = (1, 2, 4), mode: Literal["max", "mean"] = "max") -> None:
        super().__init__()
        if not levels or min(levels) < 1:
            raise ConfigError(f"levels must be one or more numbers of bins of at least 1, but are {levels}.")
        if mode not in ("max", "mean"):
            raise ConfigError(f"mode must be 'max' or 'mean', but is {mode!r}.")
        self.levels = tuple(levels)
        self.mode = mode

    @property
    def num_bins(self) -> int:
        """Bins of all levels: the factor by which the vector is longer than a pixel's."""
        return sum(level * level for level in self.levels)

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """Pool a map (N, C, H, W), finite outside its regions (N, 2), to (N, C * num_bins).

        Levels follow one another; within a level the order is channel, row, column, as if PyTorch's adaptive
        pool of each lone image were flattened.
        """
        if self.mode == "max":
            return _MaxBins.apply(features, regions, self.levels)
        return torch.cat([_mean_bins(features, regions, level) for level in self.levels], dim=1)

    def extra_repr(self) -> str:
        """The settings."""
        return f"levels={self.levels}, mode={self.mode!r}"


def _bounds(lengths: Tensor, level: int) -> tuple[Tensor, Tensor]:
    """First and past-the-last position of each bin over lengths (N,): two tensors (N, level)."""
    index = torch.arange(level, device=lengths.device)
    start = index * lengths[:, None] // level
    end = -(-(index + 1) * lengths[:, None] // level)
    return start, end


def _members(bounds: tuple[Tensor, Tensor], positions: Tensor) -> Tensor:
    """Whether each position lies in each bin: (N, level, positions)."""
    start, end = bounds
    return (positions >= start[..., None]) & (positions < end[..., None])


def _mean_bins(features: Tensor, regions: Tensor, level: int) -> Tensor:
    """Means of a level's bins, (N, C * level * level), by one small matrix product along each axis."""
    regions = regions.to(features.device)
    height, width = features.shape[2:]
    down = _members(_bounds(regions[:, 0], level), torch.arange(height, device=features.device))
    across = _members(_bounds(regions[:, 1], level), torch.arange(width, device=features.device))
    pixels = features.permute(0, 2, 3, 1)  # (N, H, W, C)
    sums = across.to(features.dtype)[:, None] @ pixels  # (N, H, level, C)
    sums = down.to(features.dtype) @ sums.flatten(2)  # (N, level, level * C)
    counts = down.sum(dim=2)[:, :, None] * across.sum(dim=2)[:, None, :]  # (N, level, level)
    grid = sums.unflatten(2, (level, -1)) / counts[..., None]
    return grid.to(features.dtype).permute(0, 3, 1, 2).flatten(1)


class _MaxBins(torch.autograd.Function):
    """Maxima of all bins; of each bin, the first maximum alone has the gradient, as in PyTorch's pools.

    Bins are visited one by one for all images together, each on the rows and columns that the bins of any image
    touch: what is copied and masked at a time is one bin, and only positions are kept for backward.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, regions: Tensor, levels: tuple[int, ...]) -> Tensor:
        """Pool a map (N, C, H, W) to (N, C * bins)."""
        regions = regions.detach().to("cpu")
        pooled, positions = [], []
        for level in levels:
            found = [_bin_max(features, box) for box in _boxes(regions, level)]
            pooled.append(torch.stack([value for value, _ in found], dim=2).flatten(1))
            positions.append(torch.stack([position for _, position in found]))
        ctx.save_for_backward(torch.cat(positions))  # (bins, N, C)
        ctx.shape, ctx.levels = features.shape, levels
        return torch.cat(pooled, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Add each bin's gradient at its maximum, bin after bin, so that the order of sums is fixed."""
        (positions,) = ctx.saved_tensors
        num_images, channels, height, width = ctx.shape
        spread = grad.new_zeros(num_images, height * width, channels)
        parts = grad.split([channels * level * level for level in ctx.levels], dim=1)
        each = torch.cat([part.unflatten(1, (channels, -1)) for part in parts], dim=2)  # (N, C, bins)
        for position, value in zip(positions, each.unbind(dim=2)):
            spread.scatter_add_(1, position[:, None], value[:, None])
        return spread.unflatten(1, (height, width)).permute(0, 3, 1, 2), None, None


def _boxes(regions: Tensor, level: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The bins of a level, row by row: first and past-the-last row, first and past-the-last column, each (N,)."""
    top, bottom = _bounds(regions[:, 0], level)
    left, right = _bounds(regions[:, 1], level)
    return [(top[:, i], bottom[:, i], left[:, j], right[:, j]) for i in range(level) for j in range(level)]


def _bin_max(features: Tensor, box: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A bin's maximum and its position in the flattened map, both (N, C)."""
    top, bottom, left, right = box
    first_row, last_row = int(top.min()), int(bottom.max())
    first_column, last_column = int(left.min()), int(right.max())
    window = features[:, :, first_row:last_row, first_column:last_column]
    rows = torch.arange(first_row, last_row)
    columns = torch.arange(first_column, last_column)
    inside = _members((top, bottom), rows)[:, :, None] & _members((left, right), columns)[:, None, :]
    if not bool(inside.all()):
        window = window.masked_fill(~inside[:, None].to(features.device), float("-inf"))
    value, index = window.flatten(2).max(dim=2)
    wide = last_column - first_column
    return value, (first_row + index // wide) * features.shape[3] + first_column + index % wide
