"""Pictures of several shapes as one padded tensor: the collate function beside `StepSampler`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import default_collate

from unsquare.errors import ConfigError, PlanError
from unsquare.shapes import Shape


class PadCollate:
    """Collates (picture, label) pairs into padded pixels, sizes and labels.

    Without arguments canvases are tight, as planned. On devices where each new canvas costs (compiled graphs,
    cuDNN's plan caches) a plan bounds them (`PlanConfig.canvases`), and `canvases=sampler.canvases` pads to those.
    `multiple` alone adds padding that the budget does not know of: leave room for it.

    Args:
        multiple: both sides of a canvas are rounded up to a multiple of this.
        canvases: the canvases allowed, (height, width) each; the smallest that holds the micro-batch is taken.
    """

    def __init__(self, *, multiple: int = 1, canvases: Sequence[tuple[int, int]] | None = None) -> None:
        if isinstance(multiple, bool) or multiple < 1:
            raise ConfigError(f"multiple must be at least 1, but is {multiple}.")
        self._multiple = multiple
        self._canvases = None
        if canvases is not None:
            self._canvases = sorted((Shape(*canvas) for canvas in canvases), key=lambda canvas: (canvas.pixels, canvas))

    def __call__(self, items: Sequence[tuple[torch.Tensor, Any]]) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """One micro-batch.

        Args:
            items: each a picture (C, H, W) of any type of number, and a label of any kind that PyTorch collates.

        Returns:
            Pixels (N, C, H, W), channels_last, each picture at the top left and zeros elsewhere; sizes (N, 2) int64,
            height and width; labels.
        """
        pictures, labels = zip(*items)
        sizes = torch.tensor([picture.shape[-2:] for picture in pictures])
        canvas = self._canvas(*sizes.amax(dim=0).tolist())
        num_channels = pictures[0].shape[0]
        pixels = torch.zeros(len(pictures), *canvas, num_channels, dtype=pictures[0].dtype)
        pixels = pixels.permute(0, 3, 1, 2)  # (N, C, H, W), channels_last as it lies
        for place, picture in zip(pixels, pictures):
            place[:, : picture.shape[1], : picture.shape[2]] = picture
        return pixels, sizes, default_collate(list(labels))

    def _canvas(self, height: int, width: int) -> Shape:
        height, width = (-(-side // self._multiple) * self._multiple for side in (height, width))
        if self._canvases is None:
            return Shape(height, width)
        for canvas in self._canvases:
            if canvas.height >= height and canvas.width >= width:
                return canvas
        raise PlanError(
            f"One of the allowed canvases must hold each micro-batch, but {height} x {width} fits none of "
            f"{', '.join(map(str, self._canvases))}; allow a larger one."
        )
