"""Reads the header of an image file: its shape as displayed, without decoding a pixel.

Only the formats listed here are opened, detected from content, not from names. Sizes, and the lengths of all else, are
checked before memory is allocated for them; Pillow's global limit on pixels is neither used nor changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from unsquare.errors import ImageError
from unsquare.index import containers
from unsquare.index.bmp_runs import MEMORY_PER_BYTE, Runs, most_bytes
from unsquare.index.content import HEAD_BYTES, sniff, why_not_an_image
from unsquare.index.jpeg import read_jpeg
from unsquare.index.limits import MAX_ICON_SIDE, MAX_WHOLE_BYTES, HeaderReader, check_length, check_size
from unsquare.index.opening import open_regular
from unsquare.index.png import read_png
from unsquare.index.reading import image_errors
from unsquare.index.stream import Part
from unsquare.index.tiff import Samples, read_tiff
from unsquare.shapes import Shape

_OPENERS: dict[str, Callable[[IO[bytes], str], Image.Image]] = {
    "AVIF": AvifImagePlugin.AvifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "ICO": IcoImagePlugin.IcoImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""
MOST_BYTES_PER_PIXEL = 64
"""No picture above a million pixels takes more bytes per pixel while it is decoded."""
_BYTES_PER_PIXEL = {"JPEG": 9, "BMP": 12, "GIF": 9, "PPM": 18}
"""Peak per pixel of the file: measured 3 (JPEG), 9 (progressive JPEG), 10 (BMP), 7 (GIF) and 16 (PGM of 16 bits)."""
_OTHER_BYTES_PER_PIXEL = 24
"""The same for every other format: measured 18 (WebP), 12 (AVIF) and 19 (JPEG 2000)."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """The facts in a file's header."""

    format: str
    mode: str
    """Pillow's name for the pixel layout: "RGB", "P", "I;16"."""
    stored: Shape
    """The shape of the pixels that the decoder returns."""
    orientation: int = 1
    """The EXIF orientation, 1 to 8, still to be applied to the decoded pixels."""
    icc: bytes = field(default=b"", repr=False)
    """The embedded color profile."""
    parts: tuple[Part, ...] = field(default=(), repr=False)
    """The parts of the file that the decoder is given; empty where it reads the file itself."""
    samples: Samples | None = field(default=None, repr=False)
    """The meaning of the samples of a TIFF; None where Pillow reads it."""
    runs: Runs | None = None
    """The runs of a BMP that is compressed by runs."""
    depth: int = 8
    """Bits per sample, where the format has more than one depth."""
    num_pages: int = 1
    """Pictures of full size in a TIFF, of which the first is decoded."""
    bytes_per_pixel: int = _OTHER_BYTES_PER_PIXEL
    """An upper bound of the memory that decoding takes."""

    @property
    def shape(self) -> Shape:
        """The shape as displayed."""
        return oriented(self.stored, self.orientation)


def oriented(shape: Shape, orientation: int) -> Shape:
    """The shape after applying an EXIF orientation (or before: it is its own inverse)."""
    return Shape(shape.width, shape.height) if orientation in _SIDEWAYS else shape


def read_header(path: Path) -> Header:
    """The header of an image file, read without decoding it.

    Raises:
        ImageError: the file cannot be read as an image; the message is the reason.
    """
    with image_errors(), open_regular(path) as (fp, status):
        return header_of(fp, status.st_size)


def header_of(fp: IO[bytes], num_bytes: int) -> Header:
    """Like `read_header`, for an open file of this length; call it within `image_errors`."""
    fp.seek(0)
    head = fp.read(HEAD_BYTES)
    name = sniff(head)
    if not name:
        raise ImageError(why_not_an_image(head))
    header = _READERS.get(name, _pillow_header)(fp, name, num_bytes)
    check_size(header.stored, num_bytes, bilevel=header.mode == "1")
    return header


def is_read(format: str | None) -> bool:
    """Whether files of a format, given by Pillow's name, are opened here."""
    return format in ("PNG", "MPO", *_OPENERS)


def open_pixels(fp: IO[bytes], header: Header) -> Image.Image:
    """The file opened for decoding by Pillow; `header` comes from `header_of`, which checked its size."""
    fp.seek(0)
    source = HeaderReader(fp, header.format)
    image = _OPENERS[header.format](source, "")  # type: ignore[arg-type]
    source.lift()
    return image


def _pillow_header(fp: IO[bytes], name: str, num_bytes: int) -> Header:
    if name == "ICO":
        check_length("icons", num_bytes, MAX_WHOLE_BYTES)
        _check_icon(fp)
    elif name == "AVIF":
        check_length("AVIF", num_bytes, MAX_WHOLE_BYTES)
    fp.seek(0)
    image = _OPENERS[name](fp if name == "AVIF" else HeaderReader(fp, name), "")  # type: ignore[arg-type]
    icc = image.info.get("icc_profile") or b""
    if name == "ICO" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        raise ImageError("is an icon whose opacity channel is empty: it has no picture, or only a mask")
    if name == "JPEG2000":
        begin = fp.tell()
        icc = containers.read_jpeg2000(fp, num_bytes, image.mode)
        containers.check_end_marker(fp, begin, min(num_bytes, begin + (1 << 20) + 8 * image.width * image.height))
    stored = Shape(image.height, image.width)
    runs = _runs(fp, image, stored, num_bytes) if name == "BMP" else None
    if name == "PPM":
        _check_pnm(image, stored, num_bytes)
    bytes_per_pixel = _BYTES_PER_PIXEL.get(name, _OTHER_BYTES_PER_PIXEL)
    if runs is not None:
        bytes_per_pixel = 8 - (-MEMORY_PER_BYTE * runs.num_bytes // max(1, stored.pixels))
        if bytes_per_pixel > MOST_BYTES_PER_PIXEL and stored.pixels > 1 << 20:
            raise ImageError(
                f"takes {bytes_per_pixel} bytes per pixel to decode, above the limit; save it uncompressed"
            )
    return Header(
        format=name,
        mode=image.mode,
        stored=stored,
        orientation=_orientation(image),
        icc=icc,
        runs=runs,
        bytes_per_pixel=bytes_per_pixel,
    )


def coded(image: Image.Image) -> tuple[str, int, Any]:
    """How Pillow would decode a picture that was opened: its codec, the start of the data, and the codec's
    arguments."""
    assert isinstance(image, ImageFile.ImageFile)
    codec, _, start, args = image.tile[0]
    return codec, start, args


def _runs(fp: IO[bytes], image: Image.Image, stored: Shape, num_bytes: int) -> Runs | None:
    """The runs of a BMP; None where it is not compressed by runs. Raises where data are missing."""
    codec, start, args = coded(image)
    if codec != "bmp_rle":
        _, row_bytes, _ = args
        _require_rows(start, row_bytes * stored.height - 3, num_bytes)  # the last row may lack its padding
        return None
    _, is_half, direction = args
    fp.seek(28)
    if (bits := int.from_bytes(fp.read(2), "little")) != (4 if is_half else 8):
        raise ImageError(
            f"is damaged: it has {bits} bits per pixel, but is compressed as if it had {4 if is_half else 8}"
        )
    length = max(0, min(num_bytes - start, most_bytes(stored)))
    return Runs(start=start, num_bytes=length, is_half=is_half, is_top_down=direction > 0)


def _check_pnm(image: Image.Image, stored: Shape, num_bytes: int) -> None:
    """Raise `ImageError` where samples of a binary PBM, PGM or PPM are missing; text formats are checked later."""
    codec, start, args = coded(image)
    if codec != "ppm_plain":
        is_wide = image.mode == "I" or (codec == "ppm" and args[1] > 255)
        row_bits = stored.width * len(image.getbands()) * (16 if is_wide else 1 if image.mode == "1" else 8)
        _require_rows(start, -(-row_bits // 8) * stored.height, num_bytes)


def _require_rows(start: int, length: int, num_bytes: int) -> None:
    if start + length > num_bytes:
        raise ImageError("is cut short: its pixel data run past the end of the file")


def _check_icon(fp: IO[bytes]) -> None:
    for shape in containers.icon_shapes(fp):
        if max(shape) > MAX_ICON_SIDE:
            raise ImageError(f"declares an icon of {shape} pixels, above the limit of {MAX_ICON_SIDE} a side")


def _jpeg_header(fp: IO[bytes], name: str, num_bytes: int) -> Header:
    found = read_jpeg(fp, num_bytes)
    return Header(
        format=name,
        mode=found.mode,
        stored=found.stored,
        orientation=_orientation(_bare({"exif": found.exif, "xmp": found.xmp})),
        icc=found.icc,
        parts=found.parts,
        bytes_per_pixel=_BYTES_PER_PIXEL[name] + 4 * (found.mode == "CMYK") + _held(found.parts, found.stored),
    )


def _held(parts: tuple[Part, ...], stored: Shape) -> int:
    """Bytes per pixel of the file's own data, held while it is decoded."""
    num_bytes = sum(part[1] for part in parts if isinstance(part, tuple))
    return -(-num_bytes // max(1, stored.pixels))


def _png_header(fp: IO[bytes], name: str, num_bytes: int) -> Header:
    found = read_png(fp, num_bytes)
    return Header(
        format=name,
        mode=found.mode,
        stored=found.stored,
        orientation=_orientation(_bare(found.info)),
        icc=found.icc or b"",
        parts=found.parts,
        depth=found.depth,
        bytes_per_pixel=found.bytes_per_pixel,
    )


def _tiff_header(fp: IO[bytes], name: str, num_bytes: int) -> Header:
    found = read_tiff(fp, num_bytes)
    samples = found.samples
    mode, stored, orientation = "1" if found.is_bilevel else "", found.stored, found.orientation
    if samples is None:
        # Pillow returns the shape, and later the pixels, with the orientation tag applied.
        fp.seek(0)
        try:
            image = _OPENERS[name](HeaderReader(fp, name), "")  # type: ignore[arg-type]
        except SyntaxError as error:
            raise ImageError(f"is a TIFF of a kind that is not supported ({found.kind})") from error
        mode, stored, orientation = image.mode, Shape(image.height, image.width), 1
    return Header(
        format=name,
        mode=mode or (samples.mode if samples else ""),
        stored=stored,
        orientation=orientation,
        icc=found.icc,
        samples=samples,
        depth=samples.bits if samples else 8,
        num_pages=found.num_pages,
        bytes_per_pixel=found.bytes_per_pixel,
    )


def _webp_header(fp: IO[bytes], name: str, num_bytes: int) -> Header:
    length = containers.webp_length(fp, num_bytes)
    chunks = containers.webp_chunks(fp, length, num_bytes)
    stored = containers.webp_shape(chunks)
    return Header(
        format=name,
        mode="RGB",
        stored=stored,
        orientation=_orientation(_bare({"exif": chunks.get(b"EXIF"), "xmp": chunks.get(b"XMP ")})),
        icc=chunks.get(b"ICCP", b""),
        parts=((0, length),),
        bytes_per_pixel=_OTHER_BYTES_PER_PIXEL + _held(((0, length),), stored),
    )


_READERS = {"JPEG": _jpeg_header, "PNG": _png_header, "TIFF": _tiff_header, "WEBP": _webp_header}


def _bare(info: dict) -> Image.Image:
    """An image with metadata only, as Pillow stores them."""
    image = Image.Image()
    image.info = info
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, else that of XMP; 1 where there is none or the metadata are damaged."""
    try:
        # The base class's method: PNG's own decodes the picture to look after it.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # The picture is good without its metadata; viewers show it unturned.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
