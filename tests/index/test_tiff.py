"""TIFF headers: what is read, and what is refused with its name."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from unsquare.data.decode import decode
from unsquare.errors import ImageError
from unsquare.index import read_header
from unsquare.index.tiff import count_pages

GREY = np.arange(24 * 40, dtype=np.uint8).reshape(24, 40)
COLOR = np.dstack([GREY, GREY[::-1], 255 - GREY])


@pytest.mark.parametrize(
    ("pixels", "options", "reason"),
    [
        (GREY.astype(np.complex64), {}, "has complex samples, which are not read"),
        (np.zeros((24, 40, 200), np.uint8), {"planarconfig": "contig"}, "has 200 samples of 8 bits a pixel"),
        (COLOR, {"photometric": "rgb", "compression": "jpeg2000"}, "is compressed by method 34712, which is not read"),
        (COLOR, {"photometric": "rgb", "compression": "webp"}, "is compressed by method 50001, which is not read"),
        (
            GREY,
            {"photometric": "cfa", "extratags": [(33421, 3, 2, (2, 2)), (33422, 1, 4, b"\0\1\1\2")]},
            "color filter",
        ),
        (np.stack([GREY] * 16), {"volumetric": True, "tile": (16, 16, 16)}, "is a volume with depth"),
    ],
)
def test_kinds_that_are_not_read_are_refused_by_name(tmp_path: Path, pixels, options: dict, reason: str) -> None:
    """The header alone tells, with the true reason, and decoding says the same."""
    options.setdefault("photometric", "minisblack")
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    for read in (read_header, decode):
        with pytest.raises(ImageError, match=reason):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "jpeg", "zstd", "lzma", "tiff_lzw"])
def test_what_one_decoder_lacks_the_other_reads(tmp_path: Path, compression: str) -> None:
    """Fax, JPEG and the rest within TIFF are shown as Pillow, which wrote them, shows them."""
    is_fax = compression.startswith(("group", "tiff_ccitt"))
    image = Image.fromarray(COLOR).convert("1" if is_fax else "RGB")
    image.save(tmp_path / "a.tif", compression=compression)
    with Image.open(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(decode(tmp_path / "a.tif"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_pages_are_pictures_of_full_size(tmp_path: Path, byteorder: str, bigtiff: bool) -> None:
    """Thumbnails and masks are no pages, in either byte order and size of offsets."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, byteorder=byteorder, bigtiff=bigtiff) as writer:
        for subfile in (0, 1, 0, 4, 0):
            writer.write(GREY > 9 if subfile == 4 else GREY, photometric="minisblack", subfiletype=subfile)
    assert read_header(path).num_pages == 3


def test_a_list_of_pages_without_an_end_is_refused(tmp_path: Path) -> None:
    """A list that leads back to itself, or out of the file, ends."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY)
    data = bytearray(path.read_bytes())
    first = struct.unpack("<I", data[4:8])[0]
    place = first + 2 + 12 * struct.unpack("<H", data[first : first + 2])[0]
    for target in (first, len(data) + 100):
        data[place : place + 4] = struct.pack("<I", target)
        path.write_bytes(data)
        with path.open("rb") as fp, pytest.raises(ImageError, match="goes in a circle, has no end or leaves the file"):
            count_pages(fp, len(data))


def test_a_missing_strip_is_an_error(tmp_path: Path) -> None:
    """A TIFF with a strip of no bytes, as sparse files have, is no picture with a hole in it."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, rowsperstrip=8)
    with tifffile.TiffFile(path, mode="r+b") as file:
        tag = file.pages[0].tags[279]
        tag.overwrite((*tag.value[:-1], 0))
    with pytest.raises(ImageError, match="fewer strips or tiles"):
        read_header(path)


def test_entries_are_bounded_before_they_are_read(tmp_path: Path) -> None:
    """An entry that promises 250 million numbers is refused, whatever follows."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOR, photometric="rgb")
    data = bytearray(path.read_bytes())
    place = data.index(struct.pack("<HHI", 258, 3, 3))
    data[place + 4 : place + 8] = struct.pack("<I", 250_000_000)
    path.write_bytes(data)
    with pytest.raises(ImageError, match="250,000,000 values in tag 258"):
        read_header(path)
