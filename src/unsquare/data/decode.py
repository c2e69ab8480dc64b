"""Decodes a file to pixels as a person would see them, at the shape that training needs.

Each format has the decoder that reads it correctly: JPEG uses libjpeg-turbo, which shrinks while decoding where the
target is less than half as large (a quarter of the time and memory); PNG libpng, in the file's own depth; TIFF tifffile
and imagecodecs; formats that Pillow decodes in Python, NumPy; all others, and what the first decoder cannot read,
Pillow. Memory is a fixed number of bytes per pixel, known beforehand, so that a loader can reserve it. Nearly all time
is spent without the interpreter's lock.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import IO, Any, NamedTuple

import imagecodecs
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import BmpImagePlugin, GifImagePlugin, Image

from unsquare.data.color import ValueRange, from_channels, levels_of, needs_depth, to_rgb, to_srgb
from unsquare.data.pixels import Pixels, oriented_pixels
from unsquare.data.tiff import read_samples
from unsquare.errors import ImageError, StaleImageError
from unsquare.index.bmp_runs import Runs, read_runs
from unsquare.index.header import MOST_BYTES_PER_PIXEL, Header, coded, header_of, open_pixels, oriented, read_header
from unsquare.index.opening import open_regular
from unsquare.index.reading import image_errors
from unsquare.index.stream import join
from unsquare.index.table import ShapeIndex
from unsquare.shapes import Shape

RESIZED_BYTES_PER_PIXEL = 14
"""Peak per pixel after resizing: Pillow's picture (4), the intermediate pass (4), the array (3), and turned (3)."""
FIXED_BYTES = 16 << 20
"""Memory of color conversion strips, decoder tables and the like."""
_ANIMATED, _HAS_ALPHA = 2, 16
"""Flags of an extended WebP."""

_DAMAGE = re.compile(
    r"Corrupt JPEG data: (?!\d+ extraneous bytes before marker 0x(?!d[0-7]))|[Pp]remature end|Inconsistent progression"
)
"""Warnings of libjpeg about missing or changed pixels. Its other warnings concern odd metadata, stray bytes between
segments (not between parts of the pixel data, markers d0 to d7), or a kind that its wrapper does not support: viewers
show such pictures, and so does the second decoder."""


class Stamp(NamedTuple):
    """Length and time of a file, to detect that it was replaced."""

    num_bytes: int
    modified_ns: int


def decode(
    path: Path,
    size: Shape | None = None,
    *,
    expected: Shape | None = None,
    stamp: Stamp | None = None,
    bits: int | None = None,
) -> Pixels:
    """The picture as displayed: orientation applied, transparency over white, sRGB, 8 bits, the first frame.

    Args:
        path: the file.
        size: the displayed shape to resize to; None keeps the file's.
        expected: the displayed shape in the index; None checks nothing.
        stamp: the length and modification time in the index; None checks nothing.
        bits: the number of bits that 16-bit samples in TIFF and PNG use, as chosen in the index; None uses the declared
            range.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageError: the file is damaged, cut short, too large for its bytes, or of a kind that is not read.
        StaleImageError: it is missing, or no longer the one in the index.
    """
    with image_errors(), open_regular(path) as (fp, status):
        _check_unchanged(status, stamp)
        header = header_of(fp, status.st_size)
        if expected is not None and header.shape != tuple(expected):
            raise StaleImageError(f"is {header.shape} pixels now, but {Shape(*expected)} in the index")
        return decode_stream(fp, header, size or header.shape, bits)


def decode_stream(fp: IO[bytes], header: Header, size: Shape, bits: int | None = None) -> Pixels:
    """Like `decode`, for an open file with its header; call it within `image_errors`."""
    target = oriented(size, header.orientation)
    return oriented_pixels(resize(_decode_stored(fp, header, target, bits), target), header.orientation)


def decode_row(index: ShapeIndex, row: int, size: Shape | None = None) -> Pixels:
    """The picture of one row of an index, decoded by `decode` if its file is still the one that was indexed.

    Args:
        index: the images; length and time are compared if the index has them.
        row: the image.
        size: the displayed shape to resize to; None keeps the file's.

    Raises:
        ImageError: as for `decode`.
    """
    shape = Shape(int(index.sizes[row, 0]), int(index.sizes[row, 1]))
    stamp = Stamp(int(index.num_bytes[row]), int(index.modified_ns[row]))
    return decode(
        index.path(row),
        size,
        expected=shape,
        stamp=stamp if stamp.modified_ns else None,
        bits=index.choices.bits,
    )


def _check_unchanged(status: os.stat_result, stamp: Stamp | None) -> None:
    if stamp is None or stamp == (status.st_size, status.st_mtime_ns):
        return
    if stamp.num_bytes != status.st_size:
        raise StaleImageError(f"is {status.st_size:,} bytes long now, but {stamp.num_bytes:,} in the index")
    raise StaleImageError("was written again after it was indexed")


def decode_peak_bytes(shape: Shape, size: Shape, bytes_per_pixel: int = MOST_BYTES_PER_PIXEL) -> int:
    """An upper bound of the peak memory of `decode`, in bytes, including its result.

    Args:
        shape: the file's shape.
        size: the shape it is resized to.
        bytes_per_pixel: the file's, as in its header; where it is unknown, the most of any format.
    """
    resized = 0 if shape == size else RESIZED_BYTES_PER_PIXEL * size.pixels
    return bytes_per_pixel * shape.pixels + resized + FIXED_BYTES


def decode_need(path: Path, shape: Shape, size: Shape) -> int:
    """The same for a file; where its header cannot be read, the most that it could need."""
    try:
        return decode_peak_bytes(shape, size, read_header(path).bytes_per_pixel)
    except ImageError:
        return decode_peak_bytes(shape, size)


def _decode_stored(fp: IO[bytes], header: Header, target: Shape, bits: int | None) -> Pixels:
    """The picture before its orientation is applied; a JPEG may be smaller, but not below the target."""
    if header.format == "JPEG":
        return _decode_jpeg(fp, header, target)
    if header.format == "PNG":
        return _decode_png(fp, header, bits)
    if header.samples is not None:
        samples = header.samples
        mode = ("RGB" if samples.mode == "P" else samples.mode) + "A" * samples.has_alpha
        channels = read_samples(fp, header, bits)
        return from_channels(channels, mode, header.icc, premultiplied=samples.is_premultiplied)
    if header.runs is not None:
        return _decode_runs(fp, header, header.runs)
    if header.parts:
        data = join(fp, header.parts)
        if data[12:16] == b"VP8X" and data[20] & _ANIMATED:
            # The canvas around the first frame is transparent, whether or not the header declares opacity.
            data[20] |= _HAS_ALPHA
        return _decode_other(io.BytesIO(data), header)
    return _decode_other(fp, header)


def _decode_other(fp: IO[bytes], header: Header) -> Pixels:
    with open_pixels(fp, header) as image:
        if header.format == "PPM" and coded(image)[0] == "ppm":
            return _decode_pnm(fp, header, image)
        image.load()
        if (image.height, image.width) != header.stored:
            raise ImageError(f"decodes to {image.height} x {image.width} pixels but declares {header.stored}")
        return loaded_pixels(image, header.icc)


def loaded_pixels(image: Image.Image, icc: bytes) -> Pixels:
    """The pixels of a loaded picture, (H, W, 3), with corrections for formats that Pillow's decoders need."""
    if isinstance(image, BmpImagePlugin.BmpImageFile) and image.mode == "RGBA":
        # A header declares opacity, but all of it is zero: every program shows such a picture as opaque.
        image = image.convert("RGB") if image.getchannel("A").getextrema() == (0, 0) else image
    pixels = to_rgb(image, icc)
    if isinstance(image, GifImagePlugin.GifImageFile) and image.tell() == 0 and image.dispose_extent:
        # The canvas around the first frame, which Pillow fills with the first color, is transparent.
        left, top, right, bottom = image.dispose_extent
        pixels[:top] = pixels[bottom:] = pixels[:, :left] = pixels[:, right:] = 255
    return pixels


def _decode_pnm(fp: IO[bytes], header: Header, image: Image.Image) -> Pixels:
    """The samples of a PGM or PPM with a range that Pillow scales in a Python loop: seconds for a few megapixels."""
    _, start, (_, top) = coded(image)
    mode = "RGB" if image.mode == "RGB" else "L"
    fp.seek(start)
    kind = np.dtype(">u2" if top > 255 else "u1")
    data = fp.read(header.stored.pixels * len(mode) * kind.itemsize)
    samples = np.frombuffer(data, kind).reshape(*header.stored, len(mode))
    return from_channels(levels_of(samples, ValueRange(0, top)), mode)


def _decode_runs(fp: IO[bytes], header: Header, runs: Runs) -> Pixels:
    with open_pixels(fp, header) as image:
        table = np.zeros((256, 3), np.uint8)
        if image.palette is not None:
            stored = np.frombuffer(image.palette.getdata()[1], np.uint8).reshape(-1, 4)  # blue first
            colors = stored[:256, 2::-1]
            table[: len(colors)] = colors
        else:  # in Pillow this means that the colors go from black to white
            table[:] = np.arange(256)[:, None] * (255 if image.mode == "1" else 1)
    return table[read_runs(fp, runs, header.stored)]


def _decode_jpeg(fp: IO[bytes], header: Header, target: Shape) -> Pixels:
    data = join(fp, header.parts)
    if header.mode == "CMYK":
        return _decode_other(io.BytesIO(data), header)
    shrinks = 2 * target.height <= header.stored.height and 2 * target.width <= header.stored.width
    least = target if shrinks else header.stored
    try:
        # Strict: a file that was cut short is an error, never a picture that is gray from some row on.
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_height=least.height, min_width=least.width, min_factor=1, strict=True
        )
    except ValueError as error:
        if _DAMAGE.search(str(error)):
            raise
        return _decode_other(io.BytesIO(data), header)
    return to_srgb(pixels, header.icc, header.mode)


def _decode_png(fp: IO[bytes], header: Header, bits: int | None) -> Pixels:
    pixels: npt.NDArray[Any] = np.atleast_3d(imagecodecs.png_decode(join(fp, header.parts)))
    if pixels.shape[:2] != header.stored:
        raise ImageError(f"decodes to {pixels.shape[0]} x {pixels.shape[1]} pixels but declares {header.stored}")
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[-1]]
    if pixels.dtype == np.uint16:
        dtype = np.uint16 if needs_depth(header.icc, mode) else np.uint8
        colors = levels_of(pixels[..., : len(mode.rstrip("A"))], ValueRange(0, (1 << (bits or 16)) - 1), dtype)
        alpha = levels_of(pixels[..., colors.shape[-1] :], ValueRange(0, 65535), dtype)
        pixels = np.concatenate([colors, alpha], axis=-1)
    return from_channels(pixels, mode, header.icc)


def resize(pixels: Pixels, size: Shape) -> Pixels:
    """The pixels (H, W, 3) resampled smoothly to another shape."""
    if pixels.shape[:2] == size:
        return pixels
    image = Image.fromarray(pixels)
    # Shrinking by whole factors first, to three times the target, is many times faster and looks the same.
    return np.asarray(image.resize((size.width, size.height), Image.Resampling.LANCZOS, reducing_gap=3.0))
