"""Limits on sizes, checked before memory or time is spent: against decompression bombs, and metadata without end.

A picture of ordinary size is decoded whatever its bytes; flat drawings do compress a thousandfold. Above that, a file
must have enough bytes for its pixels. Pillow's own guard is one global number with a warning; it would refuse the
largest pictures of real museum collections, and accept a small file that decodes to half a gigabyte.
"""

from __future__ import annotations

from typing import IO, Any

from unsquare.errors import ImageError
from unsquare.shapes import Shape

MAX_PIXELS = 400_000_000
"""Most pixels of a picture; the largest of MAMe, a collection of museum photographs, has 373 million."""
FREE_PIXELS = 1 << 24
"""Pictures up to 4096 x 4096 (48 MB as RGB) are read whatever the file's length."""
MAX_PIXELS_PER_BYTE = 256
"""Above FREE_PIXELS. The emptiest real photograph seen (a dark 36 MP JPEG) has 78; flat PNGs have up to 1000."""
MAX_BILEVEL_PIXELS_PER_BYTE = 1024
"""The same for pictures of one bit per pixel, such as scanned pages; an all-white one has 8000 as PNG."""
MAX_ICON_SIDE = 1024
"""Icons are decoded when they are opened, and their format has no side above 256."""
MAX_PROFILE_BYTES = 1 << 22
"""Of a color profile. The largest, those of printing presses, have up to 3 MB."""
MAX_METADATA_BYTES = 1 << 24
"""Of one piece of metadata that is read: EXIF or XMP. Others are skipped, however long."""
MAX_CHUNKS = 100_000
"""Chunks or segments in one file, which take 0.2 s to go through. Ordinary files have some per MB."""
MAX_WHOLE_BYTES = 1 << 28
"""Of a file in a format (WebP, AVIF) whose decoder holds the whole file in memory."""
MAX_SCANS = 500
"""Scans of a JPEG up to 2048 x 2048: each goes over all coefficients again, 500 in about a second. libjpeg-turbo's own
fuzzers stop there; cameras and converters write up to a dozen."""
MAX_SCANS_OF_LARGE = 100
"""Scans of a JPEG above LARGE_PIXELS."""
LARGE_PIXELS = 1 << 22
_MAX_READS = 1 << 16
_HEADER_BYTES = {"GIF": 1 << 20, "PPM": 1 << 16, "BMP": 1 << 20, "TIFF": 1 << 26}
_MAX_HEADER_BYTES = 1 << 24


def check_size(shape: Shape, num_bytes: int, *, bilevel: bool = False) -> None:
    """Raise `ImageError` where a picture has too many pixels, or too many for its bytes."""
    if shape.height < 1 or shape.width < 1:
        raise ImageError(f"declares {shape} pixels, so there is no picture")
    if shape.pixels > MAX_PIXELS:
        raise ImageError(f"declares {shape} pixels, above the limit of {MAX_PIXELS // 10**6} million")
    per_byte = MAX_BILEVEL_PIXELS_PER_BYTE if bilevel else MAX_PIXELS_PER_BYTE
    if shape.pixels > max(FREE_PIXELS, per_byte * num_bytes):
        raise ImageError(
            f"declares {shape} pixels in {num_bytes} bytes, more than {per_byte} pixels per byte: a decompression bomb "
            "or an empty picture"
        )


def check_length(what: str, num_bytes: int, limit: int) -> None:
    """Raise `ImageError` where a part of the file is longer than is read into memory."""
    if num_bytes > limit:
        raise ImageError(f"has {num_bytes:,} bytes of {what}, above the limit of {limit:,}")


class HeaderReader:
    """A file for libraries that read headers, which limits the bytes and the number of reads.

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
        """Like a file's `read`, within the limits."""
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
        return ImageError(f"has more than {self._limit:,} bytes, or {_MAX_READS:,} reads, of header before its pixels")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fp, name)
