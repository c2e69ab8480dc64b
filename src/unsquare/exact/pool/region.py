"""Pooling each image's region of a feature map to one vector, without bins.

Average and maximum are those of a spatial pyramid of one bin. The generalized mean lies between them: at power 1 it
is the average (of positive features), and it nears the maximum as the power grows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unsquare.exact.pool.kinds import PoolKind
from unsquare.exact.pool.pyramid import SpatialPyramidPool, checked_regions
from unsquare.settings import checks_arguments

# Both from Radenovic et al. and their code.
_INITIAL_POWER = 3.0
_FLOOR = 1e-6


class RegionPool(nn.Module):
    """Pools each image's region of a feature map to one vector.

    Args:
        kind: "avg", "max", "avgmax" (the mean of both), "catavgmax" (the average, then the maximum) or "gem", the
            generalized mean with one learned power (Radenovic et al., Fine-tuning CNN Image Retrieval with No Human
            Annotation, 2018, section 3.2).

    Example:
        >>> import torch
        >>> maps = torch.zeros(1, 1, 4, 4)
        >>> maps[..., :2, :2] = 3.0
        >>> unsquare.RegionPool("avg")(maps, torch.tensor([[2, 2]])).tolist()
        [[3.0]]
    """

    @checks_arguments
    def __init__(self, kind: PoolKind = "avg") -> None:
        super().__init__()
        self.kind = kind
        self.average = SpatialPyramidPool((1,), "mean")
        self.maximum = SpatialPyramidPool((1,), "max")
        self.power = nn.Parameter(torch.full((1,), _INITIAL_POWER)) if kind == "gem" else None

    @property
    def num_bins(self) -> int:
        """The factor by which the vector is longer than a pixel's."""
        return 2 if self.kind == "catavgmax" else 1

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """Pool a map (N, C, H, W), finite outside its regions (N, 2), to (N, C * num_bins).

        Raises:
            ExactError: a region is empty or larger than the map.
        """
        if self.power is not None:
            return _generalized_mean(features, checked_regions(features, regions), self.power)
        if self.kind == "avg":
            return self.average(features, regions)
        if self.kind == "max":
            return self.maximum(features, regions)
        both = [self.average(features, regions), self.maximum(features, regions)]
        return torch.cat(both, dim=1) if self.kind == "catavgmax" else (both[0] + both[1]) / 2

    def extra_repr(self) -> str:
        """The settings."""
        return f"kind={self.kind!r}"


def _generalized_mean(features: Tensor, regions: Tensor, power: Tensor) -> Tensor:
    """The root of the mean of the region's powers, (N, C).

    By logarithms, in fp32 at least: powers of large features overflow, and those of a channel that is all zeros
    underflow to a root whose gradient is infinite.
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    power = power.to(dtype)
    logs = power * features.to(dtype).clamp(min=_FLOOR).log()
    sums = logs.masked_fill(~_inside(features, regions), float("-inf")).logsumexp(dim=(2, 3))
    counts = regions.prod(dim=1, keepdim=True).to(dtype)
    return ((sums - counts.log()) / power).exp().to(features.dtype)


def _inside(features: Tensor, regions: Tensor) -> Tensor:
    """Whether each pixel of a map (N, C, H, W) lies in its image's region: (N, 1, H, W)."""
    rows = torch.arange(features.shape[2], device=features.device) < regions[:, :1]  # (N, H)
    columns = torch.arange(features.shape[3], device=features.device) < regions[:, 1:]  # (N, W)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
