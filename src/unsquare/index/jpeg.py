"""Reads a JPEG's header, segment by segment, and finds the parts of the file that a decoder needs.

Decoders only get the tables and the pixel data, so that comments, profiles and thumbnails take no time, odd revisions
of JFIF cause no errors, and data after the picture take no memory.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from unsquare.errors import ImageError
from unsquare.index.containers import check_end_marker
from unsquare.index.limits import (
    LARGE_PIXELS,
    MAX_CHUNKS,
    MAX_PROFILE_BYTES,
    MAX_SCANS,
    MAX_SCANS_OF_LARGE,
    check_length,
)
from unsquare.index.stream import Part
from unsquare.shapes import Shape

_BLOCK_BYTES = 1 << 16
_MARKER = re.compile(rb"\xff([\x01-\xfe])")
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_LOSSLESS = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7})
"""Frames of lossless (including JPEG-LS) and hierarchical JPEGs."""
_PROGRESSIVE = frozenset({0xC2, 0xCA})
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDD, *_FRAMES})
_SCAN, _END, _JFIF, _EXIF, _ICC, _ADOBE = 0xDA, 0xD9, 0xE0, 0xE1, 0xE2, 0xEE
_MAX_TABLE_BYTES = 1 << 20
_PLAIN_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_MAX_BLOCKS = 10
"""Most blocks in one unit of a scan (ITU-T T.81, B.2.3)."""
_MODES = {1: "L", 3: "RGB", 4: "CMYK"}


@dataclass(kw_only=True)
class Jpeg:
    """The facts in a JPEG before its pixels."""

    stored: Shape = field(default_factory=lambda: Shape(0, 0))
    mode: str = ""
    exif: bytes = b""
    xmp: bytes = b""
    parts: tuple[Part, ...] = ()
    """The parts of the file that a decoder needs."""
    profile: dict[int, bytes] = field(default_factory=dict)
    """The parts of the color profile by their number."""
    num_profile_parts: int = 0
    is_progressive: bool = False
    blocks: int = 1
    """Blocks of 8 x 8 samples in one unit of an interleaved scan."""

    @property
    def icc(self) -> bytes:
        """The color profile, if it is complete."""
        numbers = range(1, self.num_profile_parts + 1)
        return b"".join(self.profile[i] for i in numbers) if sorted(self.profile) == list(numbers) else b""


def read_jpeg(fp: IO[bytes], num_bytes: int) -> Jpeg:
    """The header of a JPEG of this many bytes.

    Raises:
        ImageError: it is damaged, cut short, not supported by any decoder here, or would take too long.
    """
    found = Jpeg()
    tables = bytearray(b"\xff\xd8")
    for marker, start, length in _segments(fp, num_bytes):
        if marker in _TABLES or (marker == _ADOBE and length >= 12):
            check_length("tables", len(tables) + length + 2, _MAX_TABLE_BYTES)
            fp.seek(start - 2)
            segment = fp.read(length + 2)
            tables += b"\xff" + bytes([marker]) + segment
            if marker in _FRAMES:
                _read_frame(marker, segment[2:], found)
        elif marker == _SCAN:
            if not found.mode:
                raise ImageError("is damaged: its pixel data come before its size")
            begins = start - 4
            is_interleaved = fp.read(1) == bytes([len(found.mode)])
            if is_interleaved and found.blocks > _MAX_BLOCKS:
                raise ImageError("has a chroma sampling too fine for pixels in one scan, which is not supported")
            # Twice what the noisiest pixels of four channels need; data after that are not part of the picture.
            end = min(num_bytes, begins + (1 << 20) + 8 * found.stored.pixels)
            check_end_marker(fp, begins, end)
            if found.is_progressive or not is_interleaved:
                _check_scans(fp, begins, end, found.stored)
            found.parts = (bytes(tables), (begins, end - begins))
            return found
        elif marker == _JFIF:
            if fp.read(min(5, length)) == b"JFIF\x00" and _PLAIN_JFIF not in tables:
                tables += _PLAIN_JFIF
        elif marker in (_EXIF, _ICC):
            _keep(marker, fp.read(length), found)
    raise ImageError("is cut short or damaged: it has no pixel data")


def _segments(fp: IO[bytes], num_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Marker, start and length of each segment's content, from the start of the file."""
    at = 2
    for _ in range(MAX_CHUNKS):
        fp.seek(at)
        head = fp.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] in (0, 0xFF):
            at = _next_marker(fp, at, num_bytes)
            fp.seek(at)
            head = fp.read(4)
        if head[1] == _END:
            raise ImageError("is cut short or damaged: it has no pixel data")
        if head[1] in _ALONE:
            at += 2
            continue
        length = int.from_bytes(head[2:], "big")
        if length < 2 or at + 2 + length > num_bytes:
            raise ImageError("is cut short or damaged: a segment of its header runs past the end of the file")
        yield head[1], at + 4, length - 2
        at += 2 + length
    raise ImageError(f"has more than {MAX_CHUNKS:,} segments before its pixels")


def _next_marker(fp: IO[bytes], at: int, num_bytes: int) -> int:
    """Where the next marker begins, after fill bytes and stray ones."""
    while at < num_bytes:
        fp.seek(at)
        block = fp.read(_BLOCK_BYTES)
        # Counting is fifty times faster than searching, and there may be many fill bytes.
        found = None if block.count(b"\xff") == len(block) else _MARKER.search(block)
        if found:
            return at + found.start()
        at += max(1, len(block) - 1)
    raise ImageError("is cut short or damaged: it has no pixel data")


def _read_frame(marker: int, frame: bytes, found: Jpeg) -> None:
    """Record size and channels; raises where they are not supported."""
    if marker in _LOSSLESS:
        raise ImageError("is a lossless or hierarchical JPEG, which is not supported; convert it to PNG")
    if len(frame) < 6:
        raise ImageError("is damaged: its frame header is too short")
    bits, height, width, num_components = struct.unpack(">BHHB", frame[:6])
    if bits != 8:
        raise ImageError(f"is a JPEG of {bits} bits, which is not supported; convert it to PNG or TIFF")
    if not height:
        raise ImageError("declares its height after its pixels, which is not supported; convert it to PNG")
    if num_components not in _MODES or len(frame) < 6 + 3 * num_components:
        raise ImageError(f"is a JPEG of {num_components} channels, but only 1, 3 and 4 are supported")
    factors = [(frame[7 + 3 * i] >> 4, frame[7 + 3 * i] & 15) for i in range(num_components)]
    for axis in zip(*factors):
        if not all(1 <= one <= 4 for one in axis):
            raise ImageError("is damaged: its chroma sampling is not within 1 to 4")
        if any(max(axis) % one for one in axis):
            raise ImageError("has a fractional chroma sampling, which is not supported; convert it to PNG")
    found.stored = Shape(height, width)
    found.mode = _MODES[num_components]
    found.is_progressive = marker in _PROGRESSIVE
    found.blocks = sum(down * across for down, across in factors) if num_components > 1 else 1


def _keep(marker: int, content: bytes, found: Jpeg) -> None:
    """Record EXIF, XMP and parts of the color profile."""
    if marker == _EXIF and content.startswith(b"Exif\x00"):
        found.exif = found.exif or content
    elif marker == _EXIF and content.startswith(b"http://ns.adobe.com/xap/1.0/\x00"):
        found.xmp = found.xmp or content.split(b"\x00", 1)[1]
    elif marker == _ICC and content.startswith(b"ICC_PROFILE\x00") and len(content) > 14:
        found.profile.setdefault(content[12], content[14:])
        found.num_profile_parts = content[13]
        check_length("color profile", sum(map(len, found.profile.values())), MAX_PROFILE_BYTES)


def _check_scans(fp: IO[bytes], begin: int, end: int, stored: Shape) -> None:
    """Raise `ImageError` where the pixel data have more scans than can be decoded in bounded time."""
    limit = MAX_SCANS if stored.pixels <= LARGE_PIXELS else MAX_SCANS_OF_LARGE
    count, last = 0, b""
    fp.seek(begin)
    while begin < end and (block := fp.read(min(16 * _BLOCK_BYTES, end - begin))):
        # In pixel data this byte follows 0xff only in a marker.
        count += block.count(b"\xff\xda") + (last == b"\xff" and block[:1] == b"\xda")
        if count > limit:
            raise ImageError(f"has more than {limit} scans; decoding them would take too long")
        begin, last = begin + len(block), block[-1:]
