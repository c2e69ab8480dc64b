"""Batch norms that keep their running statistics: stock layers of our own, which have exact forms as PyTorch's do."""

from __future__ import annotations

from typing import Any

from torch import nn

from unsquare.torchvision_guard import import_timm

_BatchNormAct2d: Any = import_timm().layers.BatchNormAct2d


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
