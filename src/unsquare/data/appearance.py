"""How training changes what a picture looks like, once it has its planned shape: all of it keeps that shape.

The order is torchvision's: automatic operations, blur, erasing. Everything is first drawn from the image's own
generators and then applied.
"""

from __future__ import annotations

import math

import numpy as np

from unsquare.data import operations
from unsquare.data.augment import AugmentConfig, DrawStreams
from unsquare.data.auto_augment import draw_operations
from unsquare.data.pixels import Pixels
from unsquare.shapes import Shape

_SIGMAS = 0.1, 2.0
"""Pixels (the default of torchvision's GaussianBlur)."""
_ERASED_PARTS = 0.02, 0.33
_ERASED_ASPECTS = 0.3, 3.3
_ERASING_TRIES = 10
"""Parts of the picture, aspect ratios and tries as in torchvision's RandomErasing (Zhong et al., arXiv 1708.04896)."""
APPEARANCE_BYTES_PER_PIXEL = 9
"""Peak memory per pixel: a picture, one after an operation, and the one that was decoded."""


def change_appearance(image: Pixels, config: AugmentConfig, draws: DrawStreams) -> Pixels:
    """A picture (H, W, 3) after all changes that are on; the picture itself where none was drawn."""
    shape = Shape(*image.shape[:2])
    for operation in draw_operations(config, shape, draws.auto_augment):
        image = operations.apply(operation.name, image, operation.magnitude)
    if draws.blur.random() < config.blur:
        image = operations.blurred(image, draws.blur.uniform(*_SIGMAS))
    if draws.erasing.random() < config.erasing and (window := draw_window(shape, draws.erasing)):
        image = operations.erased(image, *window)
    return image


def draw_window(shape: Shape, rng: np.random.Generator) -> tuple[slice, slice] | None:
    """The rows and columns to erase; None where no try has lain within the picture."""
    for _ in range(_ERASING_TRIES):
        pixels = shape.pixels * rng.uniform(*_ERASED_PARTS)
        aspect = math.exp(rng.uniform(*np.log(_ERASED_ASPECTS)))
        height, width = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if height < shape.height and width < shape.width:
            top, left = (int(rng.integers(whole - part + 1)) for whole, part in zip(shape, (height, width)))
            return slice(top, top + height), slice(left, left + width)
    return None
