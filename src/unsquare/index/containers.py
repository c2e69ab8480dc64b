"""Walks through the chunks of PNG, WebP and JPEG files: what Pillow reads only by decoding, or not at all.

Pillow finds PNG metadata behind the pixels only after decoding them, takes two canvases of memory to open a
WebP, and notices that a file was cut short when it reaches the cut. A walk from chunk to chunk costs a few
small reads.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO

from unsquare.errors import ImageError
from unsquare.shapes import Shape

MAX_METADATA_BYTES = 1 << 26
"""Metadata of a PNG beyond this is left unread."""
_TAIL_BYTES = 1 << 16
_END_OF_PIXELS = b"\xff\xd9"


def without_pixels(fp: IO[bytes], num_bytes: int) -> io.BytesIO:
    """A PNG without its pixel data, so that all of its metadata stands where a header-only reader sees it.

    Raises:
        ImageError: the pixel data run past the end of the file.
    """
    fp.seek(0)
    parts = [fp.read(8)]
    room = MAX_METADATA_BYTES
    for name, start, length in _png_chunks(fp, num_bytes):
        if name in (b"IDAT", b"fdAT"):
            if start + length > num_bytes:
                raise ImageError("is cut short: its pixel data run past the end of the file")
        elif length <= room:
            room -= length
            fp.seek(start - 8)
            parts.append(fp.read(length + 12))
    return io.BytesIO(b"".join(parts) + b"\x00\x00\x00\x00IDAT\x35\xaf\x06\x1e")


def _png_chunks(fp: IO[bytes], num_bytes: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the data and length of each chunk up to the end chunk."""
    at = 8
    while at + 8 <= num_bytes:
        fp.seek(at)
        length, name = int.from_bytes(fp.read(4), "big"), fp.read(4)
        if name == b"IEND" or not name.isalpha():
            return
        yield name, at + 8, length
        at += length + 12


def webp_chunks(fp: IO[bytes], num_bytes: int) -> dict[bytes, bytes]:
    """The header, colour and orientation chunks of a WebP by name; of pixel data the first ten bytes only.

    Raises:
        ImageError: the first picture runs past the end of the file.
    """
    out: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= num_bytes:
        fp.seek(at)
        name, length = fp.read(4), int.from_bytes(fp.read(4), "little")
        if name in (b"VP8 ", b"VP8L", b"ANMF") and at + 8 + length > num_bytes and name not in out:
            raise ImageError("is cut short: its pixel data run past the end of the file")
        if name in (b"ICCP", b"EXIF", b"XMP "):
            out.setdefault(name, fp.read(length))
        else:
            out.setdefault(name, fp.read(min(10, length)))
        at += 8 + length + length % 2
    return out


def webp_shape(chunks: dict[bytes, bytes]) -> Shape:
    """The canvas that a WebP's header declares."""
    if len(canvas := chunks.get(b"VP8X", b"")) == 10:
        return Shape(_little(canvas[7:10]) + 1, _little(canvas[4:7]) + 1)
    if len(lossless := chunks.get(b"VP8L", b"")) >= 5 and lossless[0] == 0x2F:
        bits = _little(lossless[1:5])
        return Shape((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    if len(lossy := chunks.get(b"VP8 ", b"")) == 10 and lossy[3:6] == b"\x9d\x01\x2a":
        return Shape(_little(lossy[8:10]) & 0x3FFF, _little(lossy[6:8]) & 0x3FFF)
    raise ImageError("is damaged: the WebP header declares no size")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def check_end_marker(fp: IO[bytes], header_end: int, num_bytes: int) -> None:
    """Raise `ImageError` where the pixel data of a JPEG (or JPEG 2000) have no end marker: it was cut short.

    The marker cannot occur inside pixel data. It is looked for backwards from the end of the file, so that a
    whole file costs one small read, and bytes that a camera or a broken copy appended do no harm.
    """
    end = num_bytes
    while end > header_end:
        start = max(header_end, end - _TAIL_BYTES)
        fp.seek(start)
        # One byte more than the block: the marker may lie across two blocks.
        if _END_OF_PIXELS in fp.read(end - start + 1):
            return
        end = start
    raise ImageError("is cut short: its pixel data have no end marker")


def icon_shapes(fp: IO[bytes]) -> list[Shape]:
    """The true shapes of all pictures in an ICO, from their own headers and not from the ICO's directory."""
    fp.seek(4)
    directory = fp.read(2 + 16 * _little(fp.read(2)))
    shapes = []
    for at in range(0, len(directory) - 15, 16):
        fp.seek(_little(directory[at + 12 : at + 16]))
        head = fp.read(24)
        if head.startswith(b"\x89PNG"):
            shapes.append(Shape(int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")))
        else:
            # A bitmap's height counts its transparency mask too; negative means rows from the top.
            height, width = (int.from_bytes(head[i : i + 4], "little", signed=True) for i in (8, 4))
            shapes.append(Shape(abs(height) // 2, abs(width)))
    return shapes
