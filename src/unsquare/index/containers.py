"""Reads the chunks of WebP, icon and JPEG 2000 files, and looks for the end marker of JPEG and JPEG 2000.

Pillow takes the memory of two canvases to open a WebP, and only notices a cut when it decodes up to it. Going from
chunk to chunk takes a few small reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

from unsquare.errors import ImageError
from unsquare.index.limits import MAX_CHUNKS, MAX_METADATA_BYTES, MAX_PROFILE_BYTES, MAX_WHOLE_BYTES, check_length
from unsquare.shapes import Shape

_BLOCK_BYTES = 1 << 16
_END_OF_PIXELS = b"\xff\xd9"
_CODESTREAM = b"\xff\x4f\xff\x51"
_MAX_BOXES = 10_000
_FREE_TILES, _MIN_TILE_PIXELS = 1024, 64 * 64
"""OpenJPEG takes 12 KB for each tile of a JPEG 2000 before decoding; up to the first number, tiles may be small."""
_METADATA = {
    b"ICCP": ("color profile", MAX_PROFILE_BYTES),
    b"EXIF": ("EXIF", MAX_METADATA_BYTES),
    b"XMP ": ("XMP", MAX_METADATA_BYTES),
}


def webp_length(fp: IO[bytes], num_bytes: int) -> int:
    """The bytes of a WebP by its own header; anything after them is not part of the picture."""
    fp.seek(4)
    length = min(num_bytes, 8 + _little(fp.read(4)) + 1 & ~1)
    check_length("WebP", length, MAX_WHOLE_BYTES)
    return length


def webp_chunks(fp: IO[bytes], end: int, num_bytes: int) -> dict[bytes, bytes]:
    """The header, color and orientation chunks of a WebP by name; of pixel data only the first ten bytes.

    Raises:
        ImageError: the first picture runs past the end of the file.
    """
    out: dict[bytes, bytes] = {}
    at = 12
    for _ in range(MAX_CHUNKS):
        if at + 8 > end:
            return out
        fp.seek(at)
        name, length = fp.read(4), int.from_bytes(fp.read(4), "little")
        if name in (b"VP8 ", b"VP8L", b"ANMF") and at + 8 + length > num_bytes and name not in out:
            raise ImageError("is cut short: its pixel data run past the end of the file")
        if name in _METADATA:
            check_length(_METADATA[name][0], length, _METADATA[name][1])
            out.setdefault(name, fp.read(length))
        else:
            out.setdefault(name, fp.read(min(10, length)))
        at += 8 + length + length % 2
    raise ImageError(f"has more than {MAX_CHUNKS:,} chunks")


def webp_shape(chunks: dict[bytes, bytes]) -> Shape:
    """The canvas that a WebP's header declares; a still picture fills it."""
    if len(canvas := chunks.get(b"VP8X", b"")) == 10:
        shape = Shape(_little(canvas[7:10]) + 1, _little(canvas[4:7]) + 1)
        if b"ANMF" not in chunks and (still := _still_shape(chunks)) != shape:
            raise ImageError(f"is damaged: it declares {shape} pixels, but its picture has {still}")
        return shape
    return _still_shape(chunks)


def _still_shape(chunks: dict[bytes, bytes]) -> Shape:
    if len(lossless := chunks.get(b"VP8L", b"")) >= 5 and lossless[0] == 0x2F:
        bits = _little(lossless[1:5])
        return Shape((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    if len(lossy := chunks.get(b"VP8 ", b"")) == 10 and lossy[3:6] == b"\x9d\x01\x2a":
        return Shape(_little(lossy[8:10]) & 0x3FFF, _little(lossy[6:8]) & 0x3FFF)
    raise ImageError("is damaged: the WebP header declares no size")


def read_jpeg2000(fp: IO[bytes], num_bytes: int, mode: str) -> bytes:
    """The color profile of a JPEG 2000 that Pillow reads in this mode.

    Raises:
        ImageError: its kind is not supported, or it would take too much memory.
    """
    icc, begin = b"", 0
    fp.seek(0)
    if fp.read(4) != _CODESTREAM:
        for name, start, length in _boxes(fp, 0, num_bytes):
            if name == b"jp2h":
                icc = _jp2_profile(fp, start, start + length)
            elif name == b"jp2c":
                begin = start
                break
    fp.seek(begin + 8)
    width, height, _, _, tile_width, tile_height, left, top, num = struct.unpack(">8IH", fp.read(34))
    depth = max((part & 127) + 1 for part in fp.read(3 * num)[::3])
    if depth > 8 and mode != "I;16":
        # Pillow rounds such samples up to 256, which is black.
        raise ImageError(f"is JPEG 2000 of {depth} bits in color, which is not supported; convert it to PNG or TIFF")
    num_tiles = -(-(width - left) // tile_width) * -(-(height - top) // tile_height)
    if num_tiles > _FREE_TILES and width * height < num_tiles * _MIN_TILE_PIXELS:
        raise ImageError(f"has {num_tiles:,} tiles of few pixels each; decoding them would take too much memory")
    return icc


def _jp2_profile(fp: IO[bytes], begin: int, end: int) -> bytes:
    """The color profile in the header box of a JPEG 2000."""
    for name, start, length in _boxes(fp, begin, end):
        fp.seek(start)
        if name == b"colr" and fp.read(3)[:1] == b"\x02":
            check_length("color profile", length - 3, MAX_PROFILE_BYTES)
            return fp.read(length - 3)
    return b""


def _boxes(fp: IO[bytes], at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the content and its length of each box."""
    for _ in range(_MAX_BOXES):
        if at + 8 > end:
            return
        fp.seek(at)
        head = fp.read(16)
        length, name, head_bytes = int.from_bytes(head[:4], "big"), head[4:8], 8
        if length == 1:
            length, head_bytes = int.from_bytes(head[8:], "big"), 16
        elif not length:  # to the end
            length = end - at
        if length < head_bytes:
            raise ImageError("is damaged: a box of its header has no length")
        yield name, at + head_bytes, min(length, end - at) - head_bytes
        at += length
    raise ImageError(f"has more than {_MAX_BOXES:,} boxes")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def check_end_marker(fp: IO[bytes], begin: int, end: int) -> None:
    """Raise `ImageError` where the pixel data of a JPEG (or JPEG 2000) have no end marker: the file was cut short.

    The marker is searched backward, so that a complete file costs one small read, and data that a camera or a broken
    copy appended do no harm. Of pictures without the marker, about half are gray from some row on, and no header tells
    which.
    """
    while end > begin:
        start = max(begin, end - _BLOCK_BYTES)
        fp.seek(start)
        # One byte more than the block: the marker may span two blocks.
        if _END_OF_PIXELS in fp.read(end - start + 1):
            return
        end = start
    raise ImageError("is cut short: its pixel data have no end marker")


def icon_shapes(fp: IO[bytes]) -> list[Shape]:
    """The shapes of all pictures in an ICO, from their own headers, not from the ICO's directory."""
    fp.seek(4)
    directory = fp.read(2 + 16 * _little(fp.read(2)))
    shapes = []
    for at in range(0, len(directory) - 15, 16):
        fp.seek(_little(directory[at + 12 : at + 16]))
        head = fp.read(24)
        if head.startswith(b"\x89PNG"):
            shapes.append(Shape(int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")))
        else:
            # A bitmap's height includes its transparency mask; a negative height means rows from the top.
            height, width = (int.from_bytes(head[i : i + 4], "little", signed=True) for i in (8, 4))
            shapes.append(Shape(abs(height) // 2, abs(width)))
    return shapes
