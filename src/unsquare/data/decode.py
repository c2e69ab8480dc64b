"""From a file to the pixels that a person would see, at the shape that training wants.

JPEG goes through libjpeg-turbo, which shrinks while it decodes where the target is less than half as large (a
quarter of the time and memory); every other format, and the rare kinds of JPEG, through Pillow. Memory is a
fixed number of bytes per pixel, known beforehand, so that a loader can reserve it. Nearly all time is spent
without the interpreter's lock.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import IO

import numpy as np
import simplejpeg
from PIL import Image

from unsquare.data.colour import to_rgb, to_srgb
from unsquare.data.pixels import Pixels, oriented_pixels
from unsquare.errors import ImageError
from unsquare.index.header import Header, header_of, open_pixels, oriented
from unsquare.index.reading import image_errors
from unsquare.shapes import Shape

FILE_BYTES_PER_PIXEL = {"JPEG": 9, "MPO": 9, "PNG": 9, "TIFF": 9}
"""Peak per pixel of the file: measured 3 (JPEG), 9 (progressive JPEG), 8 (PNG, TIFF)."""
MOST_BYTES_PER_PIXEL = 24
"""The same for every other format: measured 18 (WebP), 12 (AVIF) and 19 (JPEG 2000)."""
RESIZED_BYTES_PER_PIXEL = 14
"""Peak per pixel after resizing: Pillow's picture (4), the pass in between (4), ours (3), and turned (3)."""
FIXED_BYTES = 16 << 20
"""Strips of colour conversion, decoder tables, and the like."""

_HARMLESS = re.compile(
    r"extraneous bytes before marker 0x(?!d[0-7])|bad ICC marker|Invalid SOS parameters|Unknown Adobe color"
)
"""Complaints of libjpeg about JPEGs whose pixels are whole: stray bytes between segments (not between
the parts of the pixel data, markers d0 to d7), odd metadata. Viewers show such pictures; so does Pillow."""


def decode(path: Path, size: Shape | None = None, *, expected: Shape | None = None) -> Pixels:
    """The picture as displayed: orientation applied, transparency over white, sRGB, 8 bits, the first frame.

    Args:
        path: the file.
        size: the displayed shape to resize to; None keeps the file's.
        expected: the displayed shape that the index has; None checks nothing.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageError: the file is damaged, cut short, too large for its bytes, or no longer of the expected
            shape.
    """
    with image_errors(), path.open("rb") as fp:
        num_bytes = os.fstat(fp.fileno()).st_size
        header = header_of(fp, num_bytes)
        if expected is not None and header.shape != tuple(expected):
            raise ImageError(f"is {header.shape} pixels now, but the index says {Shape(*expected)}; scan again")
        target = oriented(size or header.shape, header.orientation)
        pixels = _decode_stored(fp, header, target)
        resized = resize(pixels, target)
        return oriented_pixels(resized, header.orientation)


def decode_peak_bytes(shape: Shape, size: Shape, format: str = "") -> int:
    """An upper bound of the memory that `decode` takes at its peak, in bytes, its result included.

    Args:
        shape: the file's shape.
        size: the shape it is resized to.
        format: the file's, as its header says; where it is not known, the most that any takes.
    """
    resized = 0 if shape == size else RESIZED_BYTES_PER_PIXEL * size.pixels
    return FILE_BYTES_PER_PIXEL.get(format, MOST_BYTES_PER_PIXEL) * shape.pixels + resized + FIXED_BYTES


def _decode_stored(fp: IO[bytes], header: Header, target: Shape) -> Pixels:
    """The picture before its orientation is applied; a JPEG may come smaller, down to the target."""
    if header.format == "JPEG" and header.mode in ("RGB", "L"):
        return _decode_jpeg(fp, header, target)
    return _decode_other(fp, header)


def _decode_other(fp: IO[bytes], header: Header) -> Pixels:
    with open_pixels(fp, header) as image:
        image.load()
        if (image.height, image.width) != header.stored:
            raise ImageError(f"decodes to {image.height} x {image.width} pixels but declares {header.stored}")
        return to_rgb(image, header.icc)


def _decode_jpeg(fp: IO[bytes], header: Header, target: Shape) -> Pixels:
    fp.seek(0)
    shrinks = 2 * target.height <= header.stored.height and 2 * target.width <= header.stored.width
    least = target if shrinks else header.stored
    try:
        # Strict: a file that was cut short is an error, never a picture that is grey from some row on.
        pixels = simplejpeg.decode_jpeg(
            fp.read(), "RGB", min_height=least.height, min_width=least.width, min_factor=1, strict=True
        )
    except ValueError as error:
        if _HARMLESS.search(str(error)) is None:
            raise
        return _decode_other(fp, header)
    return to_srgb(pixels, header.icc)


def resize(pixels: Pixels, size: Shape) -> Pixels:
    """The pixels (H, W, 3) at another shape, smoothly."""
    if pixels.shape[:2] == size:
        return pixels
    image = Image.fromarray(pixels)
    # Shrinking by whole factors first, to three times the target, is many times faster and looks the same.
    return np.asarray(image.resize((size.width, size.height), Image.Resampling.LANCZOS, reducing_gap=3.0))
