"""Layers that look at a whole image at once: global pools, and attention over channels from pooled values.

Rare norms, and attention that pools a network's last and smallest map, run on each image's own region in turn
(`ExactPerImage`): exact by construction, at the price of one call per image, where a vectorized form is not worth its
code. Layers that share statistics between images cannot be served so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unsquare.errors import ExactError
from unsquare.exact.layers.window import ExactLayer
from unsquare.exact.ops.sliding import KEEPS_SIZE, WindowPair
from unsquare.exact.ops.strips import applied_with_outside, region_max, region_mean
from unsquare.exact.regions import Regions


class _GlobalPool(ExactLayer):
    @staticmethod
    def known(module: Any) -> bool:
        """Only pools to one value are global."""
        return module.output_size in (1, (1, 1))

    @staticmethod
    def windows(module: Any) -> WindowPair | None:
        """One value per image and channel."""
        return None


class ExactAdaptiveAvgPool2d(_GlobalPool):
    """The mean over each image's region, (N, C, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool over the region."""
        return region_mean(x, self.regions(x))[:, :, None, None]


class ExactAdaptiveMaxPool2d(_GlobalPool):
    """The maximum over each image's region, (N, C, 1, 1)."""

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Indices would count positions on the canvas."""
        return "it returns indices, which count positions on the padded canvas" if module.return_indices else None

    def forward(self, x: Tensor) -> Tensor:
        """Pool over the region."""
        return _first_max(x, self.regions(x))[:, :, None, None]


class ExactSelectAdaptivePool2d(ExactLayer):
    """timm's pool of every classifier: mean, maximum, both averaged or both side by side."""

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Only pools of channels-first maps to one value are known."""
        if getattr(module.pool, "output_size", 1) not in (1, (1, 1)):
            return f"it pools adaptively to {module.pool.output_size}, over the canvas; use SpatialPyramidPool"
        dims = getattr(module.pool, "dim", getattr(module.pool, "dim_reduce", (2, 3)))
        return None if tuple(dims) == (2, 3) else "it pools maps whose channels come last"

    @staticmethod
    def mixes_pixels(module: Any) -> bool:
        """Without a pool type it passes the map through."""
        return not module.is_identity()

    @staticmethod
    def windows(module: Any) -> WindowPair | None:
        """One value per image and channel, unless it passes the map through."""
        return ExactLayer.windows(module) if module.is_identity() else None

    def forward(self, x: Tensor) -> Tensor:
        """Pool over the region."""
        regions = self.regions(x)
        if regions is None:
            return super().forward(x)
        pooled = self._pooled(x, regions)
        flat = getattr(self.pool, "flatten", False) or isinstance(self.flatten, nn.Flatten)
        return pooled if flat else pooled[:, :, None, None]

    def _pooled(self, x: Tensor, regions: Regions) -> Tensor:
        fast = self.pool_type.lower().startswith("fast")
        kind = self.pool_type.lower().removeprefix("fast") or "avg"
        if kind == "avg":
            return region_mean(x, regions)
        peak = region_max(x, regions) if fast else _first_max(x, regions)
        if kind == "max":
            return peak
        mean = region_mean(x, regions)
        return torch.cat([mean, peak], dim=1) if kind == "catavgmax" else 0.5 * mean + 0.5 * peak


class ExactSEModule(ExactLayer):
    """Squeeze-and-excite from the mean over the region."""

    def forward(self, x: Tensor) -> Tensor:
        """Gate the channels."""
        regions = self.regions(x)
        if regions is None:
            return super().forward(x)
        squeezed = _squeeze(x, regions, add_max=self.add_maxpool)
        return x * self.gate(self.fc2(self.act(self.bn(self.fc1(squeezed)))))


class ExactEffectiveSEModule(ExactLayer):
    """Effective squeeze-and-excite from the mean over the region."""

    def forward(self, x: Tensor) -> Tensor:
        """Gate the channels."""
        regions = self.regions(x)
        if regions is None:
            return super().forward(x)
        return x * self.gate(self.fc(_squeeze(x, regions, add_max=self.add_maxpool)))


class ExactEcaModule(ExactLayer):
    """Efficient channel attention from the mean over the region."""

    def forward(self, x: Tensor) -> Tensor:
        """Gate the channels."""
        regions = self.regions(x)
        if regions is None:
            return super().forward(x)
        y = self.conv(region_mean(x, regions)[:, None])
        if self.conv2 is not None:
            y = self.conv2(self.act(y))
        return x * self.gate(y)[:, 0, :, None, None]


class ExactCecaModule(ExactLayer):
    """Efficient channel attention on a circle of channels, from the mean over the region."""

    def forward(self, x: Tensor) -> Tensor:
        """Gate the channels."""
        regions = self.regions(x)
        if regions is None:
            return super().forward(x)
        y = F.pad(region_mean(x, regions)[:, None], (self.padding, self.padding), mode="circular")
        return x * self.gate(self.conv(y))[:, 0, :, None, None]


class ExactGlobalContext(ExactLayer):
    """A context vector by attention over the region's pixels, or their mean; added or gating."""

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the region's pixels, then gate or add."""
        regions = self.regions(x)
        if regions is None:
            return super().forward(x)
        context = self._context(x, regions)
        if self.mlp_scale is not None:
            x = x * self.gate(self.mlp_scale(context))
        return x if self.mlp_add is None else x + self.mlp_add(context)

    def _context(self, x: Tensor, regions: Regions) -> Tensor:
        """The pixels' weighted mean, (N, C, 1, 1)."""
        if self.conv_attn is None:
            return region_mean(x, regions)[:, :, None, None]
        logits = self.conv_attn(x).masked_fill(~regions.inside, float("-inf"))
        weights = logits.flatten(2).softmax(dim=2)  # (N, 1, H * W)
        return (x.flatten(2) @ weights.transpose(1, 2))[..., None]


class ExactPerImage(ExactLayer):
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
        outputs = [
            super(ExactPerImage, self).forward(image[None, :, :height, :width], *args, **kwargs)
            for image, (height, width) in zip(x, regions.sizes.tolist())
        ]
        if outputs[0].ndim == 4:
            high, wide = regions.canvas
            outputs = [F.pad(y, (0, wide - y.shape[3], 0, high - y.shape[2])) for y in outputs]
        return torch.cat(outputs)


class ExactAttentionPool2d(ExactPerImage):
    """timm's pool by attention of the map's mean, or of a token, over all pixels."""

    @staticmethod
    def windows(module: Any) -> WindowPair | None:
        """One value per image and channel, unless its tokens stay a map."""
        return KEEPS_SIZE if module.pool_type == "" else None


def _squeeze(x: Tensor, regions: Regions, *, add_max: bool) -> Tensor:
    squeezed = region_mean(x, regions)
    if add_max:
        squeezed = 0.5 * squeezed + 0.5 * region_max(x, regions)
    return squeezed[:, :, None, None]


def _first_max(x: Tensor, regions: Regions | None) -> Tensor:
    """The maximum over each region, (N, C); of tied pixels the first has the gradient, as in PyTorch's pool."""
    return applied_with_outside(x, regions, float("-inf"), lambda map: F.adaptive_max_pool2d(map, 1))[:, :, 0, 0]
