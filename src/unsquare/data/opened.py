"""Pictures that are in memory already, Pillow's or arrays, shown as files of the same content would be."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, TiffImagePlugin

from unsquare.data.colour import to_rgb
from unsquare.data.decode import resize
from unsquare.data.pixels import Pixels, oriented_pixels
from unsquare.errors import ImageError, SourceError
from unsquare.index.header import oriented
from unsquare.index.reading import image_errors
from unsquare.shapes import Shape

_CHANNELS = (1, 3, 4)
"""Of an array's last axis: grey, RGB, RGB with opacity."""


def as_image(array: npt.NDArray[Any]) -> Image.Image:
    """An array of pixels as a picture of Pillow.

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8: grey, RGB, or RGB with opacity.

    Raises:
        SourceError: it has another shape or type, whose meaning would be a guess.
    """
    if array.dtype != np.uint8:
        raise SourceError(
            f"An array's pixels must be uint8, black at 0 and white at 255, but are {array.dtype}; convert them, as in "
            "(255 * x).round().astype(np.uint8) for floats from 0 to 1."
        )
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in _CHANNELS)) or 0 in array.shape:
        raise SourceError(
            "An array must be a picture of shape (height, width) or (height, width, 1, 3 or 4), but has shape "
            f"{array.shape}; channels come last, as in x.transpose(1, 2, 0) of an array with channels first."
        )
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def shape_of(image: Image.Image) -> Shape:
    """The shape as displayed, which is that of `decode_opened`.

    Raises:
        ImageError: there are no pixels.
    """
    if not image.width or not image.height:
        raise ImageError("has no pixels")
    return oriented(Shape(image.height, image.width), _orientation(image))


def decode_opened(image: Image.Image, size: Shape) -> Pixels:
    """The picture as displayed: orientation applied, transparency over white, sRGB, 8 bits, the frame it is at.

    Args:
        image: in any mode; read now, where it was only opened.
        size: the displayed shape to resize to.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageError: it was only opened, and its file is damaged.
    """
    with image_errors():
        orientation = _orientation(image)
        image.load()
        pixels = resize(to_rgb(image, image.info.get("icc_profile") or b""), oriented(size, orientation))
        return oriented_pixels(pixels, orientation)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, that is still to be applied; 1 where the metadata are damaged."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1  # Pillow gives its shape, and later its pixels, with the orientation applied
    try:
        with image_errors():
            value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except ImageError:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
