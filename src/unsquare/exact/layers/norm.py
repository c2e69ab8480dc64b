"""Norm layers whose statistics know only real pixels, and batch norms that keep their running statistics.

The latter are stock layers of our own, which have exact forms as PyTorch's do. Norms of single pixels (layer norm over
channels) need nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unsquare.exact.layers.window import ExactLayer
from unsquare.exact.ops.norms import batch_norm, group_norm, process_group
from unsquare.exact.ops.strips import zero_outside
from unsquare.torchvision_guard import import_timm

_BatchNormAct2d: Any = import_timm().layers.BatchNormAct2d


class ExactBatchNorm2d(ExactLayer):
    """Batch norm over the real pixels of all images of the micro-batch.

    With running statistics (evaluation) it is a per-channel affine map, and the stock layer's code runs.
    """

    @staticmethod
    def refusal(module: Any) -> str | None:
        """PyTorch's conversion to synchronized norms leaves out the activation of timm's combined layers."""
        if type(module) is nn.BatchNorm2d and hasattr(module, "act"):
            return "its activation was lost on conversion; use timm.layers.convert_sync_batchnorm"
        return None

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, then apply what the layer brings along."""
        if not self.training and self.running_mean is not None:
            return super().forward(x)
        regions = self.regions(x)
        if regions is None and torch.compiler.is_compiling():  # the sums' rounding is the compiler's matter
            return super().forward(x)
        group = self.group()
        one = x.numel() == x.shape[1] if regions is None else not regions.masked and regions.num_pixels == 1
        if one and group is None:
            raise ValueError(
                "Expected more than 1 value per channel when training, but the regions of an input of size "
                f"{tuple(x.shape)} hold one pixel; use larger images or more of them."
            )
        x = x.contiguous(memory_format=torch.channels_last)
        y, mean, variance, num_pixels = batch_norm(x, self.weight, self.bias, self.eps, regions, group)
        # The second run of a checkpointed block sees the same pixels again: they were counted once.
        if self.training and self.track_running_stats and not self.exact_site.passes.recomputing:
            self._follow(mean, variance + variance / (num_pixels - 1))
        return _activate(self, y)

    def group(self) -> Any:
        """The process group whose ranks share statistics; None for each rank's own."""
        return None

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of this batch."""
        self.num_batches_tracked.add_(1)
        pace = self.momentum
        if pace is None:  # the plain average over all batches so far
            pace = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), pace)
        self.running_var.lerp_(variance.to(self.running_var.dtype), pace)


class ExactSyncBatchNorm(ExactBatchNorm2d):
    """Batch norm over the real pixels of all ranks, however unequal their numbers; on any device."""

    def group(self) -> Any:
        """The layer's own group in training, as in PyTorch."""
        return process_group(self) if self.training else None


class ExactGroupNorm(ExactLayer):
    """Group norm over each image's own region."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, then apply what the layer brings along."""
        regions = self.regions(x)
        if regions is None:
            return super().forward(x)
        y = group_norm(x, self.weight, self.bias, self.num_groups, self.eps, regions)
        return _activate(self, y)


class ExactInstanceNorm2d(ExactLayer):
    """Instance norm over each image's own region: group norm of groups of one channel."""

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Running statistics would depend on the order of the images."""
        return (
            "its running statistics mix images; build it with track_running_stats=False"
            if module.track_running_stats
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalize."""
        regions = self.regions(x)
        if regions is None:
            return super().forward(x)
        return group_norm(x, self.weight, self.bias, x.shape[1], self.eps, regions)


class ExactGlobalResponseNorm(ExactLayer):
    """Global response norm: each image's channels are compared by their length over its region.

    Zeros add nothing to a length, and where the map is zero so is the gradient of its length.
    """

    @staticmethod
    def axes(module: Any) -> tuple[int, int]:
        """The layer says itself where height and width are."""
        return module.spatial_dim

    def forward(self, x: Tensor) -> Tensor:
        """Zero the outside, then run the stock layer."""
        regions = self.regions(x)
        if self.spatial_dim == (1, 2):
            return super().forward(zero_outside(x.permute(0, 3, 1, 2), regions).permute(0, 2, 3, 1))
        return super().forward(zero_outside(x, regions))


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that uses its running statistics in training too, and leaves them alone; its affine part learns."""

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        """Stay in evaluation."""
        return super().train(False)


class FrozenBatchNormAct2d(_BatchNormAct2d):
    """timm's batch norm with activation, frozen likewise."""

    def train(self, mode: bool = True) -> FrozenBatchNormAct2d:
        """Stay in evaluation, but for dropout."""
        super().train(mode)
        self.training = False
        return self


def _activate(layer: nn.Module, y: Tensor) -> Tensor:
    """The dropout and activation of timm's combined layers; other layers have neither."""
    for name in ("drop", "act"):
        part = getattr(layer, name, None)
        if part is not None:
            y = part(y)
    return y
