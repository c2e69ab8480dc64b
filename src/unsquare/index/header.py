"""The header of one image file: its shape as displayed, found without decoding a pixel.

Only the formats named here are opened, told by content and never by name; sizes are checked before anything
is allocated for them; Pillow's global limit on pixels is neither used nor changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from unsquare.errors import ImageError
from unsquare.index import containers
from unsquare.index.content import HEAD_BYTES, sniff, why_not_an_image
from unsquare.index.limits import MAX_ICON_SIDE, check_size
from unsquare.index.reading import image_errors
from unsquare.shapes import Shape

_OPENERS: dict[str, Callable[[IO[bytes], str], Image.Image]] = {
    "AVIF": AvifImagePlugin.AvifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "ICO": IcoImagePlugin.IcoImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of its picture."""

    format: str
    mode: str
    """Pillow's name of the pixel layout: "RGB", "P", "I;16"."""
    stored: Shape
    """The shape in which the decoder gives the pixels."""
    orientation: int = 1
    """The EXIF orientation, 1 to 8, that is still to be applied to the decoded pixels."""
    icc: bytes = field(default=b"", repr=False)
    """The embedded colour profile."""

    @property
    def shape(self) -> Shape:
        """The shape as displayed."""
        return oriented(self.stored, self.orientation)


def oriented(shape: Shape, orientation: int) -> Shape:
    """The shape after (or before: it is its own inverse) applying an EXIF orientation."""
    return Shape(shape.width, shape.height) if orientation in _SIDEWAYS else shape


def read_header(path: Path) -> Header:
    """The header of an image file, read without decoding it.

    Raises:
        ImageError: the file cannot be read as an image; the message is the reason.
    """
    with image_errors(), path.open("rb") as fp:
        return header_of(fp, os.fstat(fp.fileno()).st_size)


def header_of(fp: IO[bytes], num_bytes: int) -> Header:
    """As `read_header`, for an open file of this length; call it within `image_errors`."""
    fp.seek(0)
    head = fp.read(HEAD_BYTES)
    name = sniff(head)
    if not name:
        raise ImageError(why_not_an_image(head))
    header = _webp_header(fp, num_bytes) if name == "WEBP" else _pillow_header(fp, name, num_bytes)
    check_size(header.stored, num_bytes, bilevel=header.mode == "1")
    return header


def open_pixels(fp: IO[bytes], header: Header) -> Image.Image:
    """The file opened for decoding by Pillow; `header` comes from `header_of`, which has checked its size."""
    fp.seek(0)
    return _OPENERS[header.format](fp, "")


def _pillow_header(fp: IO[bytes], name: str, num_bytes: int) -> Header:
    source = fp
    if name == "PNG":
        source = containers.without_pixels(fp, num_bytes)
    elif name == "ICO":
        _check_icon(fp)
    source.seek(0)
    image = _OPENERS[name](source, "")
    if name in ("JPEG", "JPEG2000"):
        containers.check_end_marker(fp, fp.tell(), num_bytes)
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_strips(image, num_bytes)
    return Header(
        format=name,
        mode=image.mode,
        stored=Shape(image.height, image.width),
        orientation=1 if _turned_by_pillow(image) else _orientation(image),
        icc=image.info.get("icc_profile") or b"",
    )


def _check_icon(fp: IO[bytes]) -> None:
    for shape in containers.icon_shapes(fp):
        if max(shape) > MAX_ICON_SIDE:
            raise ImageError(f"declares an icon of {shape} pixels, above the limit of {MAX_ICON_SIDE} a side")


def _check_strips(image: TiffImagePlugin.TiffImageFile, num_bytes: int) -> None:
    """Raise `ImageError` where the strips or tiles of a TIFF are not listed, or start behind its end."""
    tags = image.tag_v2
    starts = tags.get(TiffImagePlugin.STRIPOFFSETS) or tags.get(TiffImagePlugin.TILEOFFSETS) or ()
    starts = starts if isinstance(starts, tuple) else (starts,)
    if not starts or max(starts) >= num_bytes:
        raise ImageError("is cut short or damaged: its pixel data are not where its header says")


def _turned_by_pillow(image: Image.Image) -> bool:
    """Pillow gives a TIFF's shape, and later its pixels, with the orientation tag already applied."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and ExifTags.Base.Orientation in image.tag_v2


def _webp_header(fp: IO[bytes], num_bytes: int) -> Header:
    chunks = containers.webp_chunks(fp, num_bytes)
    bare = Image.Image()
    bare.info = {"exif": chunks.get(b"EXIF"), "xmp": chunks.get(b"XMP ")}
    return Header(
        format="WEBP",
        mode="RGB",
        stored=containers.webp_shape(chunks),
        orientation=_orientation(bare),
        icc=chunks.get(b"ICCP", b""),
    )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, else that of XMP; 1 where there is none or where the metadata are damaged."""
    try:
        # The base class's method: the one of PNG decodes the picture to look behind it.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # Damaged metadata take nothing from the picture; viewers show it unturned.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
