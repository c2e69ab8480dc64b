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

GRAY = np.arange(24 * 40, dtype=np.uint8).reshape(24, 40)
COLOR = np.dstack([GRAY, GRAY[::-1], 255 - GRAY])


@pytest.mark.parametrize(
    ("pixels", "options", "reason"),
    [
        (GRAY.astype(np.complex64), {}, "has complex samples, which are not supported"),
        (np.zeros((24, 40, 200), np.uint8), {"planarconfig": "contig"}, "has 200 samples of 8 bits per pixel"),
        (
            COLOR,
            {"photometric": "rgb", "compression": "jpeg2000"},
            "is compressed by method 34712, which is not supported",
        ),
        (COLOR, {"photometric": "rgb", "compression": "webp"}, "is compressed by method 50001, which is not supported"),
        (
            GRAY,
            {"photometric": "cfa", "extratags": [(33421, 3, 2, (2, 2)), (33422, 1, 4, b"\0\1\1\2")]},
            "color filter",
        ),
        (np.stack([GRAY] * 16), {"volumetric": True, "tile": (16, 16, 16)}, "is a volume with depth"),
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
            writer.write(GRAY > 9 if subfile == 4 else GRAY, photometric="minisblack", subfiletype=subfile)
    assert read_header(path).num_pages == 3


def test_a_list_of_pages_without_an_end_is_refused(tmp_path: Path) -> None:
    """A list that leads back to itself, or out of the file, ends."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GRAY)
    data = bytearray(path.read_bytes())
    first = struct.unpack("<I", data[4:8])[0]
    place = first + 2 + 12 * struct.unpack("<H", data[first : first + 2])[0]
    for target in (first, len(data) + 100):
        data[place : place + 4] = struct.pack("<I", target)
        path.write_bytes(data)
        with path.open("rb") as fp, pytest.raises(ImageError, match="is circular, endless or leaves the file"):
            count_pages(fp, len(data))


def test_a_missing_strip_is_an_error(tmp_path: Path) -> None:
    """A TIFF with a strip of no bytes, as sparse files have, is no picture with a hole in it."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GRAY, rowsperstrip=8)
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


def tagged(path: Path, tag: int, kind: int, values: tuple[int, ...]) -> Path:
    """A small RGB or other TIFF, written with one more tag."""
    options = {"photometric": "rgb", "extratags": [(tag, kind, len(values), values)]}
    if tag == 332:
        tifffile.imwrite(path, np.dstack([COLOR, GRAY]), **{**options, "photometric": "separated"})
    elif kind == 5:
        options = {"photometric": "ycbcr", "extratags": [(tag, kind, len(values) // 2, values)]}
        tifffile.imwrite(path, COLOR, **options, subsampling=(1, 1))
    else:
        tifffile.imwrite(path, COLOR, photometric="rgb", extratags=[(65_000, kind, len(values), values)])
        path.write_bytes(path.read_bytes().replace(struct.pack("<HH", 65_000, kind), struct.pack("<HH", tag, kind)))
    return path


@pytest.mark.parametrize(
    ("tag", "kind", "values", "reason"),
    [
        (317, 3, (2,), "has a predictor without a compression"),
        (332, 3, (2,), "inks other than CMYK"),
        (529, 5, (2126, 10_000, 7152, 10_000, 722, 10_000), "YCbCr colors other than JPEG's"),
        (532, 5, (16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1), "YCbCr colors other than JPEG's"),
    ],
)
def test_tags_that_change_what_samples_mean_are_refused(tmp_path: Path, tag, kind, values, reason: str) -> None:
    """They would be shown in wrong colors else."""
    with pytest.raises(ImageError, match=reason):
        read_header(tagged(tmp_path / "a.tif", tag, kind, values))


def test_jpegs_own_ycbcr_may_be_spelled_out(tmp_path: Path) -> None:
    """What the tags say then is what is read."""
    known = (299, 1000, 587, 1000, 114, 1000)
    assert read_header(tagged(tmp_path / "a.tif", 529, 5, known)).shape == (24, 40)


def test_a_file_without_the_meaning_of_its_samples_is_refused(tmp_path: Path) -> None:
    """Programs guess differently; white for zero would be as likely as black."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOR, photometric="rgb")
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<HH", 262, 3), struct.pack("<HH", 263, 3)))
    with pytest.raises(ImageError, match="what its samples mean"):
        read_header(path)


@pytest.mark.parametrize("subifds", [0, 1])
def test_a_thumbnail_is_never_taken_for_the_picture(tmp_path: Path, subifds: int) -> None:
    """Files of cameras begin with one, and have the picture as a later page or below the first."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as out:
        out.write(COLOR[::4, ::4], photometric="rgb", subfiletype=1, subifds=subifds)
        out.write(COLOR, photometric="rgb")
    with pytest.raises(ImageError, match="begins with a thumbnail"):
        read_header(tmp_path / "a.tif")


def test_a_lone_page_may_call_itself_reduced(tmp_path: Path) -> None:
    """There is no other picture that it could stand for."""
    tifffile.imwrite(tmp_path / "a.tif", COLOR, photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(decode(tmp_path / "a.tif"), COLOR)


def test_pages_that_overlap_are_refused(tmp_path: Path) -> None:
    """Entries that many pages share would be read once for each."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOR, photometric="rgb")
    data = bytearray(path.read_bytes())
    first = struct.unpack("<I", data[4:8])[0]
    num = struct.unpack("<H", data[first : first + 2])[0]
    struct.pack_into("<I", data, first + 2 + 12 * num, len(data))
    pages = bytearray(b"\0\x10" * 2000).ljust(2 + 12 * 4096 + 4000, b"\0")
    for i in range(999):
        struct.pack_into("<I", pages, 4 * i + 2 + 12 * 4096, len(data) + 4 * i + 4)
    path.write_bytes(data + pages)
    with pytest.raises(ImageError, match="pages overlap"):
        read_header(path)


def test_opacity_of_floats_has_a_range_of_its_own(tmp_path: Path) -> None:
    """Colors of 0 to 255 beside opacity of 0 to 1: what is opaque is not shown as nearly transparent."""
    pixels = np.dstack([COLOR, np.ones_like(GRAY)]).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(decode(tmp_path / "a.tif"), COLOR)


@pytest.mark.parametrize(
    ("photometric", "num_colors", "name"),
    [("miniswhite", 1, "white-is-zero"), ("separated", 4, "CMYK"), ("ycbcr", 3, "YCbCr"), ("cielab", 3, "LAB")],
)
def test_colors_multiplied_by_opacity_where_zero_is_not_black_are_refused(
    tmp_path: Path, photometric: str, num_colors: int, name: str
) -> None:
    """The samples or what they show may have been multiplied; with opacity apart, the same file is read."""
    pixels = np.dstack([GRAY] * num_colors + [GRAY[:, ::-1]])
    options = {"photometric": photometric, "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "a.tif", pixels, extrasamples=["assocalpha"], **options)
    for read in (read_header, decode):
        with pytest.raises(ImageError, match=f"has {name} samples multiplied by opacity"):
            read(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", pixels, extrasamples=["unassalpha"], **options)
    assert decode(tmp_path / "b.tif").shape == (24, 40, 3)


def test_white_is_zero_with_opacity_apart_is_shown_over_white(tmp_path: Path) -> None:
    """Gray is turned round, opacity is not."""
    alpha = np.where(GRAY % 2, 255, 0).astype(np.uint8)
    options = {"photometric": "miniswhite", "planarconfig": "contig", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([GRAY, alpha]), **options)
    np.testing.assert_array_equal(decode(tmp_path / "a.tif")[..., 0], np.where(alpha, 255 - GRAY, 255))
