"""Shapes from headers alone."""

from __future__ import annotations

import csv
import os
import struct
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from unsquare.data.decode import decode
from unsquare.errors import ImageError
from unsquare.index.header import read_header
from unsquare.index.limits import FREE_PIXELS, MAX_PIXELS, MAX_PIXELS_PER_BYTE, check_size
from unsquare.shapes import Shape

FORMATS = ("jpg", "png", "webp", "gif", "tif", "bmp", "avif", "jp2", "ppm")


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_shape_is_height_before_width(write_picture, suffix: str) -> None:
    """Every format tells height and width in that order."""
    assert read_header(write_picture(f"a.{suffix}", 24, 37)).shape == (24, 37)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_the_shape_is_as_displayed(write_picture, suffix: str, orientation: int) -> None:
    """Orientations 5 to 8 lie on their side: height and width change places."""
    exif = Image.Exif()
    exif[274] = orientation
    path = write_picture(f"a.{suffix}", 20, 31, exif=exif)
    with Image.open(path) as image:
        width, height = ImageOps.exif_transpose(image).size
    assert read_header(path).shape == (height, width)


def test_png_metadata_behind_the_pixels_count(write_picture) -> None:
    """An orientation that a PNG tells after its pixels is found without decoding them."""
    data = write_picture("a.png", 20, 31).read_bytes()
    exif = Image.Exif()
    exif[274] = 6
    at = data.rindex(b"IEND") - 4
    path = write_picture("a.png", 20, 31)
    body = exif.tobytes().removeprefix(b"Exif\x00\x00")
    chunk = len(body).to_bytes(4, "big") + b"eXIf" + body
    crc = PngImagePlugin._crc32(b"eXIf" + body).to_bytes(4, "big")
    path.write_bytes(data[:at] + chunk + crc + data[at:])
    assert read_header(path).shape == (31, 20)


def test_the_content_counts_and_not_the_name(write_picture, tmp_path: Path) -> None:
    """A PNG that is called .jpg is read as a PNG."""
    path = write_picture("a.png").rename(tmp_path / "a.jpg")
    assert read_header(path).format == "PNG"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a Git LFS pointer, not the image",
        ),
        (b"\n<!DOCTYPE html><html>404</html>", "is an HTML page, not an image"),
        (b"<?xml version='1.0'?><Error/>", "is XML, not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is SVG, a format that is not supported"),
        ("no picture here: é".encode(), "is text, not an image"),
        (b"\x00\x05\x16\x07" + bytes(80), "is a macOS side file"),
        (bytes(300), "holds only zero bytes"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "is HEIF, a format that is not supported"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00isommp41", "is a video or another media file"),
        (b"%PDF-1.7", "is a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "is PostScript"),
        (b"P7\nWIDTH 1\n", "is PAM, a format that is not supported"),
        (b"qoif" + bytes(20), "is QOI, a format that is not supported"),
        (b"\x00\x00\x02\x00\x01\x00", "is a cursor, a format that is not supported"),
        (b"\x93\x01\xfe\xff\x80 noise", "is not an image of a known format"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "is "),
        (b"\x89PNG\r\n\x1a\n", "is "),
        (b"RIFF\x04\x00\x00\x00WEBP", "is damaged: the WebP header declares no size"),
        (b"\x00\x00\x01\x00\x00\x00", "is "),
        (b"BM", "is "),
    ],
)
def test_what_is_no_image_says_what_it_is(tmp_path: Path, content: bytes, reason: str) -> None:
    """The reason names what the file really holds, as a phrase that follows its name."""
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_header(path)
    assert str(caught.value).startswith(reason)


def test_files_that_cannot_be_opened_say_why(tmp_path: Path) -> None:
    """A missing file and a folder have their reasons."""
    with pytest.raises(ImageError, match="does not exist"):
        read_header(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="is a folder, not a file"):
        read_header(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "jp2"])
def test_a_file_cut_in_half_is_noticed(write_picture, suffix: str) -> None:
    """The headers of the usual formats tell that pixel data are missing, without decoding any."""
    path = write_picture(f"a.{suffix}", 300, 400)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="cut short"):
        read_header(path)


@pytest.mark.parametrize("garbage", [b"\x00" * 200_000, b"\xff" * 70_000, b"tail"])
def test_bytes_after_a_jpeg_do_no_harm(write_picture, garbage: bytes) -> None:
    """A JPEG with a long tail of something else is whole."""
    path = write_picture("a.jpg", 50, 60)
    path.write_bytes(path.read_bytes() + garbage)
    assert read_header(path).shape == (50, 60)


@pytest.mark.parametrize(
    ("name", "head", "reason"),
    [
        ("a.gif", lambda data: data[: data.index(b",")] + b"!\xfe" + b"\xff" * 2_000_000, "1,048,576 bytes"),
        ("a.gif", lambda data: data[: data.index(b",")] + b"!\xfe\x01x\0" * 400_000, "65,536 reads"),
        ("a.ppm", lambda data: b"P6\n#" + b"x" * 200_000 + data[2:], "65,536 bytes"),
        ("a.ppm", lambda data: b"P6" + b" " * 200_000 + data[2:], "65,536 bytes"),
        ("a.jp2", lambda data: data[:32] + b"\0\0\0\x08free" * 200_000 + data[32:], "65,536 reads"),
    ],
)
def test_headers_without_an_end_are_refused(write_picture, name: str, head, reason: str) -> None:
    """Comments, blanks and boxes before the picture are read up to a limit, by the scan and by decoding."""
    path = write_picture(name)
    path.write_bytes(head(path.read_bytes()))
    for read in (read_header, decode):
        with pytest.raises(ImageError, match=f"has more than .*{reason}"):
            read(path)


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [(b"ICCP", "color profile"), (b"EXIF", "EXIF"), (b"XMP ", "XMP"), (b"", "chunks"), (b"JUNK", "WebP")],
)
def test_chunks_of_webp_are_bounded(write_picture, chunk: bytes, reason: str) -> None:
    """Whatever length a chunk declares, no memory is taken for more than the limit."""
    path = write_picture("a.webp")
    plain = path.read_bytes()[12:]
    length = {b"": 0, b"JUNK": 1 << 30}.get(chunk, 20 << 20)
    head = b"VP8X" + struct.pack("<I", 10) + b"\x20\0\0\0" + bytes(6)
    body = head + (b"JUNK\0\0\0\0" * 100_001 if not chunk else chunk + struct.pack("<I", length))
    with path.open("wb") as file:
        total = 12 + len(body) + length + len(plain)
        file.write(b"RIFF" + struct.pack("<I", total - 8) + b"WEBP" + body)
        file.seek(total - len(plain))
        file.write(plain)
    with pytest.raises(ImageError, match=reason):
        read_header(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "jp2", "bmp", "gif", "tif"])
def test_gigabytes_behind_a_picture_do_no_harm(write_picture, suffix: str) -> None:
    """What lies behind is not read, and the picture is shown as without it."""
    path = write_picture(f"a.{suffix}")
    plain = decode(path)
    with path.open("ab") as file:
        file.truncate(5 << 30)  # takes no room on the disk
    assert read_header(path).shape == plain.shape[:2]
    assert (decode(path) == plain).all()


def test_pixels_must_be_justified_by_bytes() -> None:
    """Small pictures are read however flat; large ones need bytes; nothing is larger than the limit."""
    check_size(Shape(4096, 4096), 100)
    check_size(Shape(4716, 7067), 462_716)
    check_size(Shape(1, MAX_PIXELS), MAX_PIXELS)
    with pytest.raises(ImageError, match=r"declares 4096 x 4097 pixels in 100 bytes, more than 256 pixels per byte"):
        check_size(Shape(4096, 4097), 100)
    with pytest.raises(ImageError, match="above the limit of 400 million"):
        check_size(Shape(1, MAX_PIXELS + 1), MAX_PIXELS)
    with pytest.raises(ImageError, match="there is no picture"):
        check_size(Shape(0, 5), 10)
    assert FREE_PIXELS < MAX_PIXELS_PER_BYTE * 100_000


def test_bilevel_pages_may_be_emptier() -> None:
    """A scanned page of one bit per pixel has fewer bytes than a photograph."""
    check_size(Shape(7000, 5000), 40_000, bilevel=True)
    with pytest.raises(ImageError, match="1024 pixels per byte"):
        check_size(Shape(16000, 16000), 51_400, bilevel=True)


def test_pillows_globals_stay_untouched(write_picture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's limit on pixels is neither used nor changed, and no filter of warnings stays behind."""
    path = write_picture("a.png", 40, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    before = list(warnings.filters)
    assert read_header(path).shape == (40, 40)
    assert Image.MAX_IMAGE_PIXELS == 10
    assert warnings.filters == before


def test_warnings_stay_inside_on_every_thread(shared_data: Path) -> None:
    """Pillow's warnings about damaged metadata do not leak from threads that read at once."""
    path = shared_data / "awkward/broken/truncated_exif_dpi.jpg"
    failures = []

    def read() -> None:
        try:
            for _ in range(20):
                read_header(path)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def awkward_rows(shared_data: Path) -> list[dict[str, str]]:
    """What the index of the awkward files says of each."""
    with (shared_data / "awkward/index.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_awkward_file_has_a_shape_or_a_reason(shared_data: Path) -> None:
    """No file crashes the reading; a shape agrees with the one that Pillow observed; a reason is a phrase."""
    rows = awkward_rows(shared_data)
    assert len(rows) > 90
    for row in rows:
        path = shared_data / "awkward" / row["path"]
        reason = ""
        try:
            header = read_header(path)
        except ImageError as error:
            reason = str(error)
        if reason:
            assert reason.startswith(("is ", "declares ", "holds ", "has ")), row["path"]
        elif "cannot identify" not in row["pillow_observed"]:
            assert f" {header.stored.width}x{header.stored.height}" in row["pillow_observed"], row["path"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_bombs_take_no_memory(shared_data: Path) -> None:
    """Reading and decoding every bomb stays within a few megabytes more than importing does."""
    script = r"""
import re, sys
from pathlib import Path
from unsquare.data.decode import decode
from unsquare.errors import ImageError
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
before, reasons = peak(), []
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode(path)
    except ImageError as error:
        reasons.append(str(error))
print(len(reasons), peak() - before)
"""
    bombs = shared_data / "awkward/bombs"
    out = subprocess.run([sys.executable, "-c", script, bombs], capture_output=True, text=True, check=True)
    num_refused, kilobytes = map(int, out.stdout.split())
    assert num_refused == len(os.listdir(bombs))
    assert kilobytes < 20_000


def test_a_bitmap_of_a_rare_kind_is_not_called_damaged(write_picture) -> None:
    """Two bits a pixel are valid, but no decoder here reads them."""
    path = write_picture("a.bmp")
    data = bytearray(path.read_bytes())
    data[28] = 2
    path.write_bytes(data)
    with pytest.raises(ImageError, match="is of a kind that is not supported"):
        read_header(path)


def test_a_still_webp_fills_its_canvas(write_picture) -> None:
    """A canvas of another size is noticed when scanned, since no decoder takes it."""
    path = write_picture("a.webp", 20, 30, lossless=True, exif=b"Exif\0\0MM")
    data = bytearray(path.read_bytes())
    data[data.index(b"VP8X") + 12] += 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match="declares 20 x 31 pixels, but its picture has 20 x 30"):
        read_header(path)


def with_tiles(data: bytes, side: int, tile: int) -> bytes:
    """The JPEG 2000 with another size, of its picture and of its tiles."""
    at = data.index(b"\xff\x51") + 6
    return data[:at] + struct.pack(">8I", side, side, 0, 0, tile, tile, 0, 0) + data[at + 32 :]


def test_tiles_of_jpeg_2000_are_bounded(tmp_path: Path, write_picture) -> None:
    """Each takes memory before one is decoded: 170 bytes of file could ask for 800 MB."""
    data = write_picture("a.j2k").read_bytes()
    for side, tile in ((4080, 16), (4000, 63)):
        (tmp_path / "b.j2k").write_bytes(with_tiles(data, side, tile))
        with pytest.raises(ImageError, match="tiles of few pixels"):
            read_header(tmp_path / "b.j2k")


def test_deep_colors_of_jpeg_2000_are_refused_by_name(tmp_path: Path) -> None:
    """Pillow would show white as black; deep gray is read."""
    deep = np.full((20, 30, 3), 65535, np.uint16)
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(deep, codecformat="jp2", level=0, reversible=True))
    with pytest.raises(ImageError, match="JPEG 2000 of 16 bits in color"):
        read_header(tmp_path / "a.jp2")
    (tmp_path / "b.jp2").write_bytes(imagecodecs.jpeg2k_encode(deep[..., 0], codecformat="jp2", level=0))
    assert read_header(tmp_path / "b.jp2").mode == "I;16"


def test_an_icon_without_opacity_is_refused(tmp_path: Path) -> None:
    """It would be shown as white."""
    Image.new("RGBA", (16, 16), (200, 0, 0, 0)).save(tmp_path / "a.ico", bitmap_format="bmp")
    with pytest.raises(ImageError, match="opacity channel is empty"):
        read_header(tmp_path / "a.ico")


@pytest.mark.parametrize(
    ("head", "num_bytes"),
    [
        *((b"P4 9 5\n", 10), (b"P5 9 5\n255\n", 45), (b"P5 9 5\n100\n", 45), (b"P5 9 5\n1023\n", 90)),
        *((b"P5 9 5\n65535\n", 90), (b"P6 9 5\n255\n", 135), (b"P6 9 5\n100\n", 135), (b"P6 9 5\n65535\n", 270)),
    ],
)
def test_samples_that_are_not_all_there_are_refused_by_the_header(tmp_path: Path, head: bytes, num_bytes: int) -> None:
    """The length of a binary PBM, PGM or PPM tells whether it was cut short."""
    (tmp_path / "whole.ppm").write_bytes(head + bytes(num_bytes))
    assert decode(tmp_path / "whole.ppm").shape == (5, 9, 3)
    (tmp_path / "cut.ppm").write_bytes(head + bytes(num_bytes - 1))
    with pytest.raises(ImageError, match="cut short: its pixel data run past the end of the file"):
        read_header(tmp_path / "cut.ppm")
