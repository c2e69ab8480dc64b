"""Pictures that are in memory already, as Pillow images or arrays, decoded like files with the same content."""

from __future__ import annotations

import io
import threading
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin

from unsquare.data.decode import decode_stream, loaded_pixels, resize
from unsquare.data.pixels import Pixels, oriented_pixels
from unsquare.errors import ImageError, SourceError
from unsquare.index.ambiguous import require_one_page
from unsquare.index.choices import Choices
from unsquare.index.header import header_of, is_read, oriented
from unsquare.index.limits import MAX_WHOLE_BYTES
from unsquare.index.reading import image_errors
from unsquare.shapes import Shape

_CHANNELS = (1, 3, 4)
"""Numbers of channels of an array: gray, RGB, RGB with opacity."""
_one_at_a_time = threading.Lock()
"""Held while the files of opened pictures are read."""


def as_image(array: npt.NDArray[Any]) -> Image.Image:
    """An array of pixels as a Pillow image.

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8: gray, RGB, or RGB with opacity.

    Raises:
        SourceError: it has another shape or type, whose meaning is ambiguous.
    """
    if array.dtype != np.uint8:
        raise SourceError(
            f"An array's pixels must be uint8, from 0 for black to 255 for white, but are {array.dtype}; convert them, "
            "for example by (255 * x).round().astype(np.uint8) for floats from 0 to 1."
        )
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in _CHANNELS)) or 0 in array.shape:
        raise SourceError(
            "An array must be a picture of shape (height, width) or (height, width, 1, 3 or 4), but has shape "
            f"{array.shape}; channels come last, as in x.transpose(1, 2, 0) of an array with channels first."
        )
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def shape_of(image: Image.Image, choices: Choices | None = None) -> Shape:
    """The displayed shape, which is that of `decode_opened`.

    Raises:
        ImageError: there are no pixels, or its file is refused.
    """
    with image_errors():
        if (file := unread_file(image)) is not None:
            header = header_of(file, file.getbuffer().nbytes)
            require_one_page(header, choices or Choices())
            return header.shape
    if not image.width or not image.height:
        raise ImageError("has no pixels")
    return oriented(Shape(image.height, image.width), _orientation(image))


def decode_opened(image: Image.Image, size: Shape, bits: int | None = None) -> Pixels:
    """The picture as displayed: orientation applied, transparency over white, sRGB, 8 bits, the frame it is at.

    Args:
        image: in any mode. If it was only opened, its file is read, by the same decoders as other files.
        size: the displayed shape to resize to.
        bits: as for `decode`, if its file is read.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageError: it was only opened, and its file is damaged or refused.
    """
    with image_errors():
        if (file := unread_file(image)) is not None:
            return decode_stream(file, header_of(file, file.getbuffer().nbytes), size, bits)
        orientation = _orientation(image)
        image.load()
        pixels = resize(loaded_pixels(image, image.info.get("icc_profile") or b""), oriented(size, orientation))
        return oriented_pixels(pixels, orientation)


def is_unread(image: Image.Image) -> TypeGuard[ImageFile.ImageFile]:
    """Whether a picture was only opened, and nothing of its file was read but the header."""
    # Pillow keeps the pixels here. In a Pillow that does not, all pictures would count as loaded, and be shown as it
    # reads them.
    return isinstance(image, ImageFile.ImageFile) and getattr(image, "_im", image) is None and image.tell() == 0


def unread_file(image: Image.Image) -> io.BytesIO | None:
    """The file of a picture that was only opened, from memory or an open file; None where only Pillow can read it.

    Raises:
        ImageError: the open file is too long to be read into memory.
    """
    if not is_unread(image) or not is_read(image.format):
        return None
    file = image.fp
    if file is None or getattr(file, "closed", False):
        return None
    with _one_at_a_time:  # two pictures may share a file
        at = file.tell()
        length = file.seek(0, io.SEEK_END)
        try:
            if length > MAX_WHOLE_BYTES and not isinstance(file, io.BytesIO):  # a BytesIO is in memory already
                raise ImageError(f"is an open file of {length:,} bytes, above {MAX_WHOLE_BYTES:,}; give its path")
            file.seek(0)
            return io.BytesIO(file.read())
        finally:
            file.seek(at)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, that is still to be applied; 1 where the metadata are damaged."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1  # Pillow applies the orientation itself, to the shape and later to the pixels
    try:
        with image_errors():
            value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except ImageError:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
