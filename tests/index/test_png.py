"""PNG headers, chunk by chunk."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from unsquare.data.decode import decode
from unsquare.errors import ImageError
from unsquare.index import read_header
from unsquare.index.limits import MAX_CHUNKS, MAX_PROFILE_BYTES


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk with its sum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunks(path: Path, *chunks: bytes, behind: bool = False) -> Path:
    """The PNG with chunks behind its header, or behind its pixels."""
    data = path.read_bytes()
    at = len(data) - 12 if behind else 33
    path.write_bytes(data[:at] + b"".join(chunks) + data[at:])
    return path


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000))),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0" + zlib.compress(bytes(50_000_000))),
        chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2 * MAX_PROFILE_BYTES))),
        chunk(b"iCCP", b"a\0\x07not compressed in a known way"),
        chunk(b"tEXt", b"a\0" + bytes(5_000_000)),
        chunk(b"eXIf", b"nonsense"),
        chunk(b"abCd", b"")[:-4] + b"sum?",
    ],
)
def test_metadata_that_cannot_be_used_change_nothing(write_picture, extra: bytes, behind: bool) -> None:
    """Bombs of text, damaged profiles, unknown chunks: the picture is as without them."""
    path = write_picture("a.png")
    plain = decode(path)
    assert read_header(with_chunks(path, extra, behind=behind)).icc == b""
    np.testing.assert_array_equal(decode(path), plain)


@pytest.mark.parametrize("packed", [False, True])
def test_orientation_of_xmp_is_found(write_picture, packed: bool) -> None:
    """XMP tells the orientation where there is no EXIF, packed or plain, before the pixels or behind them."""
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><r tiff:Orientation=\"6\"/></x:xmpmeta>"
    text = b"XML:com.adobe.xmp\0" + (b"\x01\0\0\0" + zlib.compress(xmp) if packed else b"\0\0\0\0" + xmp)
    for name, behind in (("a.png", False), ("b.png", True)):
        path = with_chunks(write_picture(name, 20, 31), chunk(b"iTXt", text), behind=behind)
        assert read_header(path).shape == decode(path).shape[:2] == (31, 20)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (chunk(b"teXt", b"") * (MAX_CHUNKS + 1), "more than 100,000 chunks"),
        (chunk(b"IDAT", bytes(3 << 20)), "bytes of pixel data, above the limit"),
        (chunk(b"PLTE", bytes(3000)), "bytes of palette, above the limit"),
        (struct.pack(">I", 5 << 20) + b"iCCP", "bytes of color profile, above the limit"),
    ],
)
def test_chunks_without_an_end_are_refused(write_picture, extra: bytes, reason: str) -> None:
    """By the header, before memory is taken."""
    with pytest.raises(ImageError, match=reason):
        read_header(with_chunks(write_picture("a.png"), extra))


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (24, 3, "an invalid kind of pixels"),
        (25, 5, "an invalid kind of pixels"),
        (16, 1, "above the limit of 1,000,000 for a side"),
    ],
)
def test_headers_that_no_decoder_reads_are_refused(write_picture, at: int, value: int, reason: str) -> None:
    """Depths and colors that PNG does not have, and sides that libpng does not take."""
    path = write_picture("a.png")
    data = bytearray(path.read_bytes())
    data[at] = value
    path.write_bytes(data)
    with pytest.raises(ImageError, match=reason):
        read_header(path)


@pytest.mark.parametrize(
    "one",
    [
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(15_000_000), 9)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0" + zlib.compress(bytes(15_000_000), 9)),
        chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2 * MAX_PROFILE_BYTES), 9)),
    ],
)
def test_metadata_that_come_again_are_not_unpacked_again(write_picture, one: bytes) -> None:
    """A thousand chunks that each unpack to megabytes take no longer than one."""
    path = with_chunks(write_picture("a.png", 6, 9), one * 1000)
    begin = time.process_time()
    assert read_header(path).shape == (6, 9)
    assert time.process_time() - begin < 2
