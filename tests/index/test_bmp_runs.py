"""BMPs that are compressed by runs."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unsquare.data.decode import decode
from unsquare.errors import ImageError
from unsquare.index import read_header, scan_source
from unsquare.index.bmp_runs import Runs, read_runs
from unsquare.shapes import Shape

SHAPE = Shape(4, 6)
COLORS = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)


def bmp(data: bytes, *, bits: int = 8, shape: Shape = SHAPE, compression: int = 0) -> bytes:
    """A BMP with these runs."""
    table = np.concatenate([COLORS[: 1 << bits, ::-1], np.zeros((1 << bits, 1), np.uint8)], axis=1).tobytes()
    compression = compression or {8: 1, 4: 2}[bits]
    info = struct.pack("<IiiHHIIiiII", 40, shape.width, shape.height, 1, bits, compression, len(data), 0, 0, 0, 0)
    start = 54 + len(table)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + table + data


def runs_of(row: list[int], is_half: bool, draw) -> bytes:
    """One row as runs and literal pixels of any length."""
    out, at = b"", 0
    while at < len(row):
        length = draw(st.integers(1, min(255, len(row) - at)))
        part = row[at : at + length]
        period = 2 if is_half else 1
        if length >= 3 and draw(st.booleans()):
            pixels = part + [0] * (length % 2)
            data = bytes(a << 4 | b for a, b in zip(pixels[::2], pixels[1::2])) if is_half else bytes(part)
            out += bytes([0, length]) + data + b"\0" * (len(data) % 2)
        else:
            length = next((i for i in range(period, length) if part[i] != part[i - period]), length)
            out += bytes([length, part[0] << 4 | (part[1] if len(part) > 1 else 0) if is_half else part[0]])
        at += length
    return out


@settings(deadline=None)
@given(st.data())
def test_runs_and_literal_pixels_of_any_length_are_read(data: st.DataObject) -> None:
    """Whatever commands a program chose, rows packed beyond the picture too, the pixels are the same."""
    is_half = data.draw(st.booleans())
    height, width, padding = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 300)), data.draw(st.integers(0, 7))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    pixels = rng.integers(0, data.draw(st.sampled_from([2, 16])), (height, width + padding), dtype=np.uint8)
    encoded = b"\0\0".join(runs_of(row, is_half, data.draw) for row in pixels.tolist())
    encoded += data.draw(st.sampled_from([b"", b"\0\1", b"\0\0", b"\0\0\0\1", b"\0\0\0\1 behind"]))
    runs = Runs(start=0, num_bytes=len(encoded), is_half=is_half, is_top_down=True)
    np.testing.assert_array_equal(read_runs(io.BytesIO(encoded), runs, Shape(height, width)), pixels[:, :width])


ROW = b"\x06\x01\0\0"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (3 * ROW + b"\0\1", "leave pixels without a color"),  # a row is missing
        (2 * ROW + b"\0\0" + ROW + b"\0\1", "leave pixels without a color"),  # a row is empty
        (2 * ROW + b"\3\1\0\0" + ROW + b"\0\1", "leave pixels without a color"),  # a row ends early
        (2 * ROW + b"\0\2\0\1" + ROW + b"\0\1", "leave pixels without a color"),  # a move over a row
        (3 * ROW, "cut short or damaged"),
        (3 * ROW + b"\0\x06\1\1\1\1", "cut short or damaged"),
        (b"", "cut short or damaged"),
        (5 * ROW + b"\0\1", "more pixels than the picture"),
        (3 * ROW + b"\xff\1\0\1", "more pixels than the picture"),
    ],
)
def test_what_is_refused_is_refused_by_the_scan(tmp_path: Path, data: bytes, reason: str) -> None:
    """Where runs leave out pixels the reason is not damage; decoding says the same."""
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/a.bmp").write_bytes(bmp(data))
    (problem,) = scan_source(tmp_path).problems
    assert reason in problem.reason
    with pytest.raises(ImageError, match=reason.replace("(", r"\(")):
        decode(tmp_path / "cat/a.bmp")


def test_runs_for_another_depth_are_refused(tmp_path: Path) -> None:
    """RLE4 of 8 bits has no meaning."""
    (tmp_path / "a.bmp").write_bytes(bmp(4 * ROW + b"\0\1", compression=2))
    with pytest.raises(ImageError, match="has 8 bits per pixel, but is compressed as if it had 4"):
        decode(tmp_path / "a.bmp")


def test_a_palette_of_grays_and_whole_rows_are_shown_as_pillow_shows_them(tmp_path: Path) -> None:
    """The palette from black to white, which Pillow drops, is there; rows count from below."""
    data = b"".join(bytes([6, level, 0, 0]) for level in (9, 80, 200, 255)) + b"\0\1"
    gray = bytes(value for level in range(256) for value in (level, level, level, 0))
    file = bmp(data)
    (tmp_path / "a.bmp").write_bytes(file[:54] + gray + file[54 + 1024 :])
    with Image.open(tmp_path / "a.bmp") as image:
        np.testing.assert_array_equal(decode(tmp_path / "a.bmp"), np.asarray(image.convert("RGB")))
    assert decode(tmp_path / "a.bmp")[:, 0, 0].tolist() == [255, 200, 80, 9]


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_an_uncompressed_bmp_that_is_cut_short_is_refused_by_its_header(tmp_path: Path, mode: str) -> None:
    """Its length tells; what stands behind the picture, or a last row without padding, is no matter."""
    path = tmp_path / "a.bmp"
    Image.fromarray(COLORS[:35].reshape(5, 7, 3)).convert(mode).save(path)
    data, expected = path.read_bytes(), decode(path)
    path.write_bytes(data + b"behind")
    np.testing.assert_array_equal(decode(path), expected)
    path.write_bytes(data[:-4])
    with pytest.raises(ImageError, match="cut short: its pixel data run past the end"):
        read_header(path)
