"""Sizes that are refused before any memory is taken: decompression bombs.

A picture of ordinary size is decoded whatever its bytes; flat drawings really do compress a thousandfold.
Above that, a file must have the bytes to justify its pixels. Pillow's own guard is one global number with a
warning; it would refuse the largest pictures of real museum collections and pass a small file that decodes
to half a gigabyte.
"""

from __future__ import annotations

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
