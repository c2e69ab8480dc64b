"""Combines pictures of several shapes into one padded tensor: the collate function for `StepSampler`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import torch
from torch.utils.data import default_collate

from unsquare.errors import ConfigError, PlanError, SourceError
from unsquare.plan.config import MOST_MULTIPLE
from unsquare.settings import Range, checks_arguments, received
from unsquare.shapes import Shape, checked_shape


class PadCollate:
    """Collates (picture, label) pairs into padded pixels, sizes and labels.

    Without arguments canvases are tight, as planned. On devices where each new canvas has a cost (compiled graphs,
    cuDNN's plan caches) a plan can bound their number (`PlanConfig.canvases`), and `canvases=sampler.canvases` pads to
    those. `multiple` alone adds padding that is not in the plan's budget: leave memory for it.

    Args:
        multiple: both sides of a canvas are rounded up to a multiple of this.
        canvases: the canvases allowed, (height, width) each; the smallest that holds the micro-batch is taken.

    Example:
        >>> import torch
        >>> pixels, sizes, labels = unsquare.PadCollate()([(torch.ones(3, 40, 64), 0), (torch.ones(3, 64, 40), 1)])
        >>> pixels.shape, sizes.tolist(), labels.tolist()
        (torch.Size([2, 3, 64, 64]), [[40, 64], [64, 40]], [0, 1])
    """

    @checks_arguments
    def __init__(
        self,
        *,
        multiple: Annotated[int, Range(1, MOST_MULTIPLE)] = 1,
        canvases: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self._multiple = multiple
        self._canvases = None
        if canvases is not None:
            if isinstance(canvases, str) or not isinstance(canvases, Iterable) or not (canvases := list(canvases)):
                raise ConfigError(f"canvases must be a list of heights and widths, but is {received(canvases)}.")
            allowed = [checked_shape(canvas, "Each of canvases") for canvas in canvases]
            self._canvases = sorted(allowed, key=lambda canvas: (canvas.pixels, canvas))

    def __call__(self, items: Sequence[tuple[torch.Tensor, Any]]) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Collate one micro-batch.

        Args:
            items: each a picture (C, H, W) of any numeric type, and a label that PyTorch can collate.

        Returns:
            Pixels (N, C, H, W), channels_last, each picture at the top left and zeros elsewhere; sizes (N, 2) int64,
            height and width; labels.

        Raises:
            SourceError: an item is something else, or the items cannot be combined.
            PlanError: none of the canvases holds them.
        """
        pictures, labels = _pairs(items)
        sizes = torch.tensor([picture.shape[-2:] for picture in pictures])
        canvas = self._canvas(*sizes.amax(dim=0).tolist())
        num_channels = pictures[0].shape[0]
        pixels = torch.zeros(len(pictures), *canvas, num_channels, dtype=pictures[0].dtype)
        pixels = pixels.permute(0, 3, 1, 2)  # (N, C, H, W), channels_last in memory
        for place, picture in zip(pixels, pictures):
            place[:, : picture.shape[1], : picture.shape[2]] = picture
        try:
            return pixels, sizes, default_collate(labels)
        except (TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise SourceError(
                f"Labels of a micro-batch must be of one kind and length, so that PyTorch can collate them, but are "
                f"{received(labels)} ({reason}); have the dataset return numbers."
            ) from error

    def _canvas(self, height: int, width: int) -> Shape:
        height, width = (-(-side // self._multiple) * self._multiple for side in (height, width))
        if self._canvases is None:
            return Shape(height, width)
        for canvas in self._canvases:
            if canvas.height >= height and canvas.width >= width:
                return canvas
        raise PlanError(
            f"A micro-batch of {height} x {width} fits none of the allowed canvases, "
            f"{', '.join(map(str, self._canvases))}; allow a larger one."
        )


def _pairs(items: Sequence[tuple[torch.Tensor, Any]]) -> tuple[list[torch.Tensor], list[Any]]:
    """Pictures and labels.

    Raises:
        SourceError: an item is not such a pair, or pictures differ in more than height and width.
    """
    pairs = list(items) if isinstance(items, Iterable) else []
    if not pairs:
        raise SourceError(f"A micro-batch must be a list of (picture, label), but got {received(items)}.")
    for pair in pairs:
        picture = pair[0] if isinstance(pair, (tuple, list)) and len(pair) == 2 else pair
        if picture is pair or not isinstance(picture, torch.Tensor) or picture.ndim != 3 or not picture.numel():
            got = (
                f"a tensor of shape {tuple(picture.shape)}" if isinstance(picture, torch.Tensor) else received(picture)
            )
            raise SourceError(
                "The dataset must return (picture, label), the picture a tensor (channels, height, width), but "
                f"{'the item' if picture is pair else 'the picture'} is {got}; convert PIL images with "
                "torchvision.transforms.v2.functional.pil_to_tensor, arrays with torch.from_numpy and permute(2, 0, 1)."
            )
    kinds = {(pair[0].shape[0], pair[0].dtype) for pair in pairs}
    if len(kinds) > 1:
        listed = ", ".join(f"{channels} of {dtype}" for channels, dtype in sorted(kinds, key=str))
        raise SourceError(
            f"Pictures of a micro-batch must have the same channels and type, but have {listed}; convert them to one."
        )
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
