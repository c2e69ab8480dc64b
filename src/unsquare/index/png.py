"""Reads a PNG's header and metadata, chunk by chunk, and finds the chunks that a decoder needs.

Metadata may follow the pixels, may be of any length, and may be decompression bombs; unneeded chunks are skipped
unread, and not given to the decoder.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from unsquare.errors import ImageError
from unsquare.index.limits import MAX_CHUNKS, MAX_METADATA_BYTES, MAX_PROFILE_BYTES, check_length
from unsquare.index.stream import Part
from unsquare.shapes import Shape

_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_MAX_SIDE = 1_000_000
"""libpng's own limit."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_MAX_TABLE_BYTES = 1024
"""Most bytes of a palette or its transparency."""
_XMP = b"XML:com.adobe.xmp\x00"
_RAW_EXIF = "Raw profile type exif"


@dataclass(kw_only=True)
class Png:
    """The facts in a PNG's header."""

    stored: Shape
    mode: str
    depth: int
    icc: bytes | None = None
    """The color profile; empty if it is damaged."""
    info: dict[str, bytes | str] = field(default_factory=dict)
    """EXIF and XMP under the names that Pillow gives them."""
    parts: tuple[Part, ...] = ()
    """The parts of the file that a decoder needs."""
    bytes_per_pixel: int = 0
    """An upper bound of the memory that decoding takes."""


def read_png(fp: IO[bytes], num_bytes: int) -> Png:
    """The header of a PNG of this many bytes.

    Raises:
        ImageError: it is damaged or cut short.
    """
    fp.seek(0)
    head = fp.read(33)
    if len(head) < 33 or head[8:16] != b"\x00\x00\x00\rIHDR":
        raise ImageError("is cut short or damaged: the PNG header is not valid")
    width, height, depth, color = struct.unpack(">IIBB", head[16:26])
    if depth not in _DEPTHS.get(color, ()):
        raise ImageError("is damaged: the PNG header declares an invalid kind of pixels")
    if max(width, height) > _MAX_SIDE:
        raise ImageError(f"declares {height} x {width} pixels, above the limit of {_MAX_SIDE:,} for a side of a PNG")
    mode = "1" if (color, depth) == (0, 1) else _MODES[color]
    found = Png(stored=Shape(height, width), mode=mode, depth=depth)
    parts: list[Part] = [head]
    pixel_bytes = 0
    for name, start, length in _chunks(fp, num_bytes):
        if name == b"IDAT":
            if start + length > num_bytes:
                raise ImageError("is cut short: its pixel data run past the end of the file")
            pixel_bytes += length
            _append(parts, start - 8, length + 12)
        elif name in (b"PLTE", b"tRNS") and not pixel_bytes:
            check_length("palette", length, _MAX_TABLE_BYTES)
            _append(parts, start - 8, length + 12)
        else:
            _keep(fp, name, start, length, found)
    if not pixel_bytes:
        raise ImageError("is cut short or damaged: it has no pixel data")
    raw = height * (width * _CHANNELS[color] * depth / 8 + 1)
    check_length("pixel data", pixel_bytes, int(2 * raw) + (1 << 20))
    found.parts = (*parts, _END)
    decoded = (depth + 7) // 8 * (4 if color in (2, 3, 6) else 2)
    found.bytes_per_pixel = decoded * (1 if depth < 16 else 2) + 4 + -(-pixel_bytes // max(1, found.stored.pixels))
    return found


def _append(parts: list[Part], start: int, length: int) -> None:
    """Add a span of the file, merged with the last one if it follows directly."""
    last = parts[-1]
    if isinstance(last, tuple) and sum(last) == start:
        parts[-1] = (last[0], last[1] + length)
    else:
        parts.append((start, length))


def _chunks(fp: IO[bytes], num_bytes: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the data and length of each chunk up to the end chunk."""
    at = 33
    for _ in range(MAX_CHUNKS):
        if at + 8 > num_bytes:
            return
        fp.seek(at)
        length, name = struct.unpack(">I4s", fp.read(8))
        if name == b"IEND" or not name.isalpha():
            return
        yield name, at + 8, length
        at += length + 12
    raise ImageError(f"has more than {MAX_CHUNKS:,} chunks")


def _keep(fp: IO[bytes], name: bytes, start: int, length: int, found: Png) -> None:
    """Record the color profile, EXIF and XMP; the first of each counts, and others are not unpacked."""
    if name == b"iCCP" and found.icc is None:
        check_length("color profile", length, MAX_PROFILE_BYTES)
        fp.seek(start)
        found.icc = _inflate(fp.read(length).partition(b"\x00")[2][1:], MAX_PROFILE_BYTES)
    elif name == b"eXIf" and "exif" not in found.info:
        check_length("EXIF", length, MAX_METADATA_BYTES)
        fp.seek(start)
        found.info["exif"] = b"Exif\x00\x00" + fp.read(length)
    elif name in (b"tEXt", b"zTXt", b"iTXt"):
        fp.seek(start)
        keyword = fp.read(min(22, length))
        is_xmp = name == b"iTXt" and keyword.startswith(_XMP)
        is_exif = keyword == f"{_RAW_EXIF}\0".encode()
        if (is_xmp and "xmp" not in found.info) or (is_exif and _RAW_EXIF not in found.info):
            check_length("XMP or EXIF", length, MAX_METADATA_BYTES)
            fp.seek(start)
            text = fp.read(length).partition(b"\x00")[2]
            if is_xmp:
                is_packed, text = text[:1] == b"\x01", b"\x00".join(text[2:].split(b"\x00", 2)[2:])
                found.info["xmp"] = _inflate(text, MAX_METADATA_BYTES) if is_packed else text
            else:
                text = _inflate(text[1:], MAX_METADATA_BYTES) if name == b"zTXt" else text
                found.info[_RAW_EXIF] = text.decode("latin-1")


def _inflate(data: bytes, limit: int) -> bytes:
    """The decompressed data; empty where they are damaged or longer than the limit."""
    unpacker = zlib.decompressobj()
    try:
        out = unpacker.decompress(data, limit)
    except zlib.error:
        return b""
    return out if unpacker.eof else b""
