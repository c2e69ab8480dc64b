"""Spatial pyramid pooling: one vector of fixed length from a feature map of any shape.

He et al., Spatial Pyramid Pooling in Deep Convolutional Networks, 2014, section 2.2. Each level cuts an image's own
region into a grid, with the bins of PyTorch's adaptive pools: bin i of l over a length n runs from floor(i n / l)
to ceil((i + 1) n / l), so bins may overlap by a row or column, and a region smaller than the grid repeats pixels.

All images' bins of a level are pooled at once: the maximum on a copy of their pixels, the mean as two small matrix
products. `torch.embedding_bag` would take maxima without the copy, but it overlooks NaN and lacks devices.

No division here is of a negative number: Python and PyTorch round it down, but ONNX towards zero.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unsquare.errors import ExactError
from unsquare.exact.pool.kinds import MOST_LEVEL, check_levels
from unsquare.settings import Range, checks_arguments, received


class SpatialPyramidPool(nn.Module):
    """Pools each image's region of a feature map into grids of several levels.

    Source: He et al., Spatial Pyramid Pooling in Deep Convolutional Networks, 2014, section 2.2.

    Args:
        levels: bins along each side, per level.
        mode: how a bin is pooled: "max", or "mean".

    Example:
        >>> import torch
        >>> pool = unsquare.SpatialPyramidPool(levels=(1, 2))
        >>> maps, regions = torch.ones(2, 8, 6, 6), torch.tensor([[6, 4], [3, 6]])
        >>> pool(maps, regions).shape
        torch.Size([2, 40])
    """

    @checks_arguments
    def __init__(
        self, levels: Annotated[tuple[int, ...], Range(1, MOST_LEVEL)] = (1, 2, 4), mode: Literal["max", "mean"] = "max"
    ) -> None:
        super().__init__()
        check_levels(levels, "levels")
        self.levels = levels
        self.mode = mode

    @property
    def num_bins(self) -> int:
        """Bins of all levels: the factor by which the vector is longer than a pixel's."""
        return sum(level * level for level in self.levels)

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """Pool a map (N, C, H, W), finite outside its regions (N, 2), to (N, C * num_bins).

        Levels follow one another; within a level the order is channel, row, column, as if PyTorch's adaptive
        pool of each image alone were flattened.

        Raises:
            ExactError: a region is empty or larger than the map.
        """
        regions = checked_regions(features, regions)
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
    end = ((index + 1) * lengths[:, None] + level - 1) // level
    return start, end


def _members(bounds: tuple[Tensor, Tensor], positions: Tensor) -> Tensor:
    """Whether each position lies in each bin: (N, level, positions)."""
    start, end = bounds
    return (positions >= start[..., None]) & (positions < end[..., None])


def _require_map(features: Any, regions: Any) -> None:
    tensors = isinstance(features, Tensor) and isinstance(regions, Tensor)
    if tensors and features.ndim == 4 and regions.shape == (features.shape[0], 2) and not regions.is_floating_point():
        return
    given = f"{received(features)} and {received(regions)}"
    if tensors:
        given = f"shapes {tuple(features.shape)} and {tuple(regions.shape)} of {regions.dtype}"
    raise ExactError(
        f"A pool takes a map (N, C, height, width) and integer regions (N, 2), but got {given}; take both from the "
        "same network."
    )


def checked_regions(features: Tensor, regions: Tensor) -> Tensor:
    """The regions (N, 2) on the device of their map (N, C, H, W).

    Raises:
        ExactError: a region is empty or larger than the map.
    """
    _require_map(features, regions)
    if torch.compiler.is_compiling():  # a graph asks nothing of the values that it is given
        return regions.to(features.device)
    sizes = regions.detach().to("cpu")
    wrong = ((sizes < 1) | (sizes > torch.tensor(features.shape[2:]))).any(dim=1)
    if wrong.any():
        raise ExactError(
            "A region must have at least 1 x 1 pixels and at most those of its map, {} x {}, but one has {} x {}; "
            "take the regions from output_regions.".format(*features.shape[2:], *sizes[wrong][0].tolist())
        )
    return regions.to(features.device)


def _mean_bins(features: Tensor, regions: Tensor, level: int) -> Tensor:
    """Means of a level's bins, (N, C * level * level), by one small matrix product along each axis."""
    height, width = features.shape[2:]
    down = _members(_bounds(regions[:, 0], level), torch.arange(height, device=features.device))
    across = _members(_bounds(regions[:, 1], level), torch.arange(width, device=features.device))
    dtype = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):  # else sums would be rounded to bf16 half-way
        pixels = features.to(dtype).permute(0, 2, 3, 1)  # (N, H, W, C)
        sums = across.to(dtype)[:, None] @ pixels  # (N, H, level, C)
        sums = down.to(dtype) @ sums.flatten(2)  # (N, level, level * C)
    counts = down.sum(dim=2)[:, :, None] * across.sum(dim=2)[:, None, :]  # (N, level, level)
    grid = sums.unflatten(2, (level, -1)) / counts[..., None]
    return grid.to(features.dtype).permute(0, 3, 1, 2).flatten(1)


class _MaxBins(torch.autograd.Function):
    """Maxima of all bins; of each bin, the first maximum alone has the gradient, as in PyTorch's pools.

    Only positions are kept for backward.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, regions: Tensor, levels: tuple[int, ...]) -> Tensor:
        """Pool a map (N, C, H, W) to (N, C * bins)."""
        pixels = features.permute(0, 2, 3, 1).contiguous()  # (N, H, W, C)
        found = [_max_bins(pixels, regions, level) for level in levels]
        ctx.save_for_backward(torch.cat([positions for _, positions in found], dim=1))  # (N, bins, C)
        ctx.shape, ctx.levels = features.shape, levels
        return torch.cat([peaks.transpose(1, 2).flatten(1) for peaks, _ in found], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Add each bin's gradient at its maximum, bin after bin, so that the order of sums is fixed."""
        (positions,) = ctx.saved_tensors
        num_images, channels, height, width = ctx.shape
        spread = grad.new_zeros(num_images, height * width, channels)
        parts = grad.split([channels * level * level for level in ctx.levels], dim=1)
        each = torch.cat([part.unflatten(1, (channels, -1)) for part in parts], dim=2)  # (N, C, bins)
        for position, value in zip(positions.unbind(dim=1), each.unbind(dim=2)):
            spread.scatter_add_(1, position[:, None], value[:, None])
        return spread.unflatten(1, (height, width)).permute(0, 3, 1, 2), None, None


def _max_bins(pixels: Tensor, regions: Tensor, level: int) -> tuple[Tensor, Tensor]:
    """Maxima of a level's bins on pixels (N, H, W, C), and their positions in H * W: both (N, bins, C)."""
    height, width = pixels.shape[1:3]
    rows = _places(_bounds(regions[:, 0], level), height)  # (N, level, h)
    columns = _places(_bounds(regions[:, 1], level), width)  # (N, level, w)
    places = rows[:, :, None, :, None] * width + columns[:, None, :, None, :]  # (N, level, level, h, w)
    places = places.flatten(3).flatten(1, 2)  # (N, bins, h * w)
    first = torch.arange(pixels.shape[0], device=pixels.device)[:, None, None] * (height * width)
    picked = pixels.flatten(0, 2).index_select(0, (first + places).flatten())  # copies whole rows of channels
    peaks, index = picked.unflatten(0, places.shape).max(dim=2)
    return peaks, places.gather(2, index)


def _places(bounds: tuple[Tensor, Tensor], length: int) -> Tensor:
    """The positions of each bin, as many for all: (N, level, places); a shorter bin repeats its last.

    A bin of l over n has at most 1 + ceil((n - 1) / l) positions; with the map's length for n, nothing is asked of
    the device.
    """
    start, end = bounds
    level = start.shape[1]
    longest = 1 + (length - 1 + level - 1) // level
    return torch.minimum(start[..., None] + torch.arange(longest, device=start.device), end[..., None] - 1)
