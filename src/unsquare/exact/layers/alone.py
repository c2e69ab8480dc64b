"""Layers that run on each image's own region in turn: exact by construction, at the price of one call per image.

For rare norms, and for attention that pools a network's last and smallest map, a vectorised form is not worth its code.
Layers that share statistics between images cannot be served so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unsquare.errors import ExactError
from unsquare.exact.layers.window import ExactLayer
from unsquare.exact.ops.sliding import KEEPS_SIZE, WindowPair


class ExactAlone(ExactLayer):
    """A layer that keeps the map's size, image by image."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the stock layer on each region, and lay the results on one canvas, zero outside."""
        regions = self.regions(x)
        if regions is None:
            return super().forward(x, *args, **kwargs)
        if regions.masked:
            raise ExactError(
                f"{self.stock.__name__} runs image by image, but a compiled graph knows no image's size; run the model "
                "without torch.compile."
            )
        alone = [
            super(ExactAlone, self).forward(image[None, :, :height, :width], *args, **kwargs)
            for image, (height, width) in zip(x, regions.sizes.tolist())
        ]
        if alone[0].ndim == 4:
            high, wide = regions.canvas
            alone = [F.pad(y, (0, wide - y.shape[3], 0, high - y.shape[2])) for y in alone]
        return torch.cat(alone)


class ExactAttentionPool2d(ExactAlone):
    """timm's pool by attention of the map's mean, or of a token, over all pixels."""

    @staticmethod
    def windows(module: Any) -> WindowPair | None:
        """One value per image and channel, unless its tokens stay a map."""
        return KEEPS_SIZE if module.pool_type == "" else None
