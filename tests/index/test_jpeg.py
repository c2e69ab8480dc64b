"""JPEG headers, segment by segment."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import numpy as np
import pytest

from unsquare.data.decode import decode
from unsquare.errors import ImageError
from unsquare.index import read_header
from unsquare.index.limits import MAX_CHUNKS, MAX_SCANS


def with_bytes(path: Path, extra: bytes) -> Path:
    """The JPEG with these bytes between its first marker and what follows."""
    data = path.read_bytes()
    path.write_bytes(data[:2] + extra + data[2:])
    return path


@pytest.mark.parametrize(
    "extra",
    [
        b"\xff" * 3_000_000,
        b"\xff\x00" * 100,
        b"\xff\xfe\xff\xff" * 1 + bytes(65_533),
        b"\xff\xfe\x00\x02" * 1000,
        b"\xff\xe1\x00\x08Exif\0\0",
        b"\xff\xe2\x00\x10ICC_PROFILE\0\x01\x02",
        b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\x07",
        b"\xff\xd0\xff\x01",
    ],
)
def test_what_stands_before_the_picture_changes_nothing(write_picture, extra: bytes) -> None:
    """Fill bytes, stray ones, comments, empty or odd metadata: the picture is as without them."""
    path = write_picture("a.jpg", 60, 90)
    plain = decode(path)
    header = read_header(path)
    assert read_header(with_bytes(path, extra)).shape == header.shape
    np.testing.assert_array_equal(decode(path), plain)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (b"\xff\xfe\x00\x02" * (MAX_CHUNKS + 1), "more than 100,000 segments before its pixels"),
        (b"\xff\xdb\x00\x43\x00" + b"\x01" * 64, ""),
        ((b"\xff\xdb\x00\x43\x00" + b"\x01" * 64) * 20_000, "bytes of tables, above the limit"),
        (
            b"".join(b"\xff\xe2\xff\xffICC_PROFILE\0" + bytes([i, 99]) + bytes(65_519) for i in range(1, 99)),
            "color profile",
        ),
        (b"\xff\xfe\xff\xff", "runs past the end of the file"),
        (b"\xff\xd9", "no pixel data"),
    ],
)
def test_a_header_without_an_end_is_refused_at_once(write_picture, extra: bytes, reason: str) -> None:
    """By the scan and by decoding, with the reason, in well under a second."""
    path = with_bytes(write_picture("a.jpg"), extra)
    begin = time.process_time()
    for read in (read_header, decode):
        if reason:
            with pytest.raises(ImageError, match=reason):
                read(path)
        else:
            read(path)
    assert time.process_time() - begin < 2


def frame(data: bytes) -> int:
    """Where the content of the frame header begins."""
    return data.index(b"\xff\xc0") + 4


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, 12, "is a JPEG of 12 bits, which is not supported"),
        (5, 2, "is a JPEG of 2 channels, but only 1, 3 and 4 are supported"),
        (7, 0x52, "chroma sampling is not within 1 to 4"),
        (7, 0x32, "fractional chroma sampling"),
        (7, 0x44, "too fine for pixels in one scan"),
        (-3, 0xC3, "is a lossless or hierarchical JPEG"),
        (-3, 0xF7, "is a lossless or hierarchical JPEG"),
    ],
)
def test_kinds_that_no_decoder_reads_are_refused_when_scanned(write_picture, at: int, value: int, reason: str) -> None:
    """The header names the kind, hours before a run would find it out."""
    path = write_picture("a.jpg", subsampling=2)
    data = bytearray(path.read_bytes())
    place = frame(data)
    if value == 0x32:
        data[place + 10] = 0x21  # a channel sampled twice where another is sampled three times
    data[place + at] = value
    path.write_bytes(data)
    with pytest.raises(ImageError, match=reason):
        read_header(path)


@pytest.mark.parametrize("num", [20, MAX_SCANS + 1])
def test_scans_are_counted_before_any_is_decoded(write_picture, num: int) -> None:
    """Progressive JPEGs may come in many passes, each as dear as the first; the scan refuses thousands."""
    path = write_picture("a.jpg", 300, 300, progressive=True)
    data = path.read_bytes()
    at = data.rindex(b"\xff\xda")
    path.write_bytes(data[:at] + b"".join([data[at:-2]] * num) + data[-2:])
    if num > MAX_SCANS:
        with pytest.raises(ImageError, match=f"has more than {MAX_SCANS} scans; decoding them would take too long"):
            read_header(path)
    else:
        assert read_header(path).shape == (300, 300)


def test_bytes_behind_the_picture_are_not_read(write_picture) -> None:
    """Neither the scan nor decoding depends on how much of something else follows, or what."""
    path = write_picture("a.jpg", 60, 90)
    plain = decode(path)
    with path.open("ab") as file:
        file.truncate(5 << 30)  # takes no room on the disk
    header = read_header(path)
    assert sum(part[1] for part in header.parts if isinstance(part, tuple)) < 2 << 20
    np.testing.assert_array_equal(decode(path), plain)


def test_an_end_that_lies_far_behind_is_none(write_picture) -> None:
    """A JPEG that lost its end marker is refused, though the rubbish behind it holds one."""
    path = write_picture("a.jpg")
    data = path.read_bytes()
    with path.open("wb") as file:
        file.write(data[:-2])
        file.seek(3 << 20)
        file.write(b"\xff\xd9")
    with pytest.raises(ImageError, match="no end marker"):
        read_header(path)


def test_profiles_come_in_parts_and_in_any_order(write_picture) -> None:
    """All parts make a profile; where one is missing there is none."""
    path = write_picture("a.jpg")
    parts = [b"\xff\xe2" + struct.pack(">H", 22) + b"ICC_PROFILE\0" + bytes([i, 3]) + b"part%d." % i for i in (2, 3, 1)]
    assert read_header(with_bytes(path, b"".join(parts))).icc == b"part1.part2.part3."
    assert read_header(with_bytes(write_picture("b.jpg"), b"".join(parts[:2]))).icc == b""


def test_a_long_adobe_marker_counts(write_picture) -> None:
    """libjpeg takes 12 bytes of it and passes over the rest: the channels are red, green and blue."""
    path = write_picture("a.jpg", 60, 90, keep_rgb=True, quality=95)
    expected = decode(path)
    data = path.read_bytes()
    at = data.index(b"\xff\xee")
    path.write_bytes(data[:at] + b"\xff\xee\x00\x10" + data[at + 4 : at + 16] + b"\0\0" + data[at + 16 :])
    np.testing.assert_array_equal(decode(path), expected)


def test_a_height_behind_the_pixels_is_refused_by_name(write_picture) -> None:
    """Such a file is whole, but no decoder here reads it."""
    path = write_picture("a.jpg", 60, 90)
    data = path.read_bytes()
    at = frame(data)
    path.write_bytes(data[: at + 1] + b"\0\0" + data[at + 3 : -2] + b"\xff\xdc\0\4\0\x3c\xff\xd9")
    with pytest.raises(ImageError, match="its height after its pixels"):
        read_header(path)
