"""Sizes that are refused before any memory or time is taken: decompression bombs, and metadata without an end.

A picture of ordinary size is decoded whatever its bytes; flat drawings really do compress a thousandfold.
Above that, a file must have the bytes to justify its pixels. Pillow's own guard is one global number with a
warning; it would refuse the largest pictures of real museum collections and pass a small file that decodes
to half a gigabyte.
"""

from __future__ import annotations

from typing import IO, Any

from unsquare.errors import ImageError
from unsquare.shapes import Shape

MAX_PIXELS = 400_000_000
"""No picture above this; the largest of MAMe, a collection of museum photographs, has 373 million."""
FREE_PIXELS = 1 << 24
"""Pictures up to 4096 x 4096 (48 MB as RGB) are read whatever the file's length."""
MAX_PIXELS_PER_BYTE = 256
"""Above FREE_PIXELS. The emptiest real photograph seen (a dark 36 MP JPEG) has 78; flat PNGs reach 1000."""
MAX_BILEVEL_PIXELS_PER_BYTE = 1024
"""The same for pictures of one bit per pixel, such as scanned pages; an all-white one reaches 8000 as PNG."""
MAX_ICON_SIDE = 1024
"""Icons are decoded when they are opened, and their format knows no side above 256."""
MAX_PROFILE_BYTES = 1 << 22
"""Of a color profile. Those of printing presses, the largest, have up to 3 MB."""
MAX_METADATA_BYTES = 1 << 24
"""Of one piece of metadata that is read: EXIF or XMP. What is not needed is passed over, however long."""
MAX_CHUNKS = 100_000
"""Of chunks or segments in one file: 0.2 s of walking. Ordinary files have some per MB."""
MAX_WHOLE_BYTES = 1 << 28
"""Of a file in a format (WebP, AVIF) whose decoder holds the file as a whole."""
MAX_SCANS = 500
"""Of a JPEG up to 2048 x 2048: each passes over all its coefficients again, 500 in about a second. libjpeg-turbo's own
fuzzers stop there; cameras and converters write up to a dozen."""
MAX_SCANS_OF_LARGE = 100
"""Of a JPEG above LARGE_PIXELS."""
LARGE_PIXELS = 1 << 22
_MAX_READS = 1 << 16
_HEADER_BYTES = {"GIF": 1 << 20, "PPM": 1 << 16, "BMP": 1 << 20, "TIFF": 1 << 26}
_MAX_HEADER_BYTES = 1 << 24


def check_size(shape: Shape, num_bytes: int, *, bilevel: bool = False) -> None:
    """Raise `ImageError` where a picture of this shape in this many bytes is not worth its memory."""
    if shape.height < 1 or shape.width < 1:
        raise ImageError(f"declares {shape} pixels: there is no picture")
    if shape.pixels > MAX_PIXELS:
        raise ImageError(f"declares {shape} pixels, above the limit of {MAX_PIXELS // 10**6} million")
    per_byte = MAX_BILEVEL_PIXELS_PER_BYTE if bilevel else MAX_PIXELS_PER_BYTE
    if shape.pixels > max(FREE_PIXELS, per_byte * num_bytes):
        raise ImageError(
            f"declares {shape} pixels in {num_bytes} bytes, more than {per_byte} pixels a byte: "
            "a decompression bomb or an empty picture"
        )


def check_length(what: str, num_bytes: int, limit: int) -> None:
    """Raise `ImageError` where something of the file is longer than is read into memory."""
    if num_bytes > limit:
        raise ImageError(f"has {num_bytes:,} bytes of {what}, above the limit of {limit:,}")


class HeaderReader:
    """A file as a library sees it that reads the header: it may read so many bytes in so many steps, and no more.

    Args:
        fp: the file.
        format: its format; those with short headers have lower limits.
    """

    def __init__(self, fp: IO[bytes], format: str) -> None:
        self._fp = fp
        self._limit = self._bytes_left = _HEADER_BYTES.get(format, _MAX_HEADER_BYTES)
        self._reads_left = _MAX_READS
        self._is_bounded = True

    def lift(self) -> None:
        """End the limits: the header has been read, and pixels follow."""
        self._is_bounded = False

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        if not self._is_bounded:
            return self._fp.read(size)
        self._reads_left -= 1
        if size > self._bytes_left or self._reads_left < 0:
            raise self._refusal()
        data = self._fp.read(size if size >= 0 else self._bytes_left + 1)
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise self._refusal()
        return data

    def _refusal(self) -> ImageError:
        return ImageError(f"has more than {self._limit:,} bytes, or {_MAX_READS:,} pieces, of header before its pixels")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fp, name)
