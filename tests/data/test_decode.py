"""From files to the picture that a person would see."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, ImageOps

from unsquare.data.color import to_rgb
from unsquare.data.decode import decode, decode_peak_bytes, decode_row
from unsquare.errors import ImageError, StaleImageError
from unsquare.index import read_header, scan_source
from unsquare.shapes import Shape


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference in gray levels."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(float) - other).mean())


def by_pillow(path: Path) -> np.ndarray:
    """The peer: Pillow's own decoding, oriented."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "avif", "jp2", "ppm"])
def test_every_format_gives_what_pillow_gives(write_picture, suffix: str) -> None:
    """The pixels are Pillow's, whatever the format; JPEG, by another decoder, to within a gray level."""
    path = write_picture(f"a.{suffix}", 45, 70)
    pixels = decode(path)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert difference(pixels, by_pillow(path)) <= (1 if suffix == "jpg" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_orientation_is_applied(write_picture, suffix: str, orientation: int) -> None:
    """Each of the eight orientations shows the picture as Pillow's transposition does, resized or not."""
    exif = Image.Exif()
    exif[274] = orientation
    path = write_picture(f"a.{suffix}", 40, 64, exif=exif)
    expected = by_pillow(path)
    assert difference(decode(path), expected) < 1
    size = Shape(expected.shape[0] // 3, expected.shape[1] // 3)
    resized = np.asarray(Image.fromarray(expected).resize(size[::-1], Image.Resampling.LANCZOS))
    assert difference(decode(path, size), resized) < 3


@pytest.mark.parametrize("size", [Shape(300, 400), Shape(299, 399), Shape(150, 200), Shape(61, 93), Shape(9, 7)])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_size_is_exactly_the_one_asked_for(write_picture, suffix: str, size: Shape) -> None:
    """Shrinking gives the shape asked for and looks as a careful resize of the whole picture does."""
    path = write_picture(f"a.{suffix}", 300, 400)
    resized = np.asarray(Image.fromarray(decode(path)).resize(size[::-1], Image.Resampling.LANCZOS))
    assert difference(decode(path, size), resized) < 2


def test_enlarging_is_exact_too(write_picture) -> None:
    """A picture may grow, and shrink to a single pixel."""
    path = write_picture("a.jpg", 5, 9)
    assert decode(path, Shape(31, 70)).shape == (31, 70, 3)
    assert decode(path, Shape(1, 1)).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("P", 3, (3, 3, 3)),
        ("I;16", 256 * 77 + 200, (77, 77, 77)),
        ("I;16", 65535, (255, 255, 255)),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path, mode: str, color: object, expected: tuple) -> None:
    """Gray, palette, transparency (over white) and 16 bits all become 8-bit RGB."""
    image = Image.new(mode, (3, 2), color)
    if mode == "P":
        image.putpalette([i for i in range(256) for _ in range(3)])
    image.save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png")[1, 2].tolist() == list(expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([0.0, 32896.0, 65535.0], [0, 128, 255]),
        ([-3.0, 0.0, 3.0], [0, 128, 255]),
        ([np.nan, 1.0, np.inf], [0, 255, 255]),
        ([7e9, 7e9, 7e9], [0, 0, 0]),
    ],
)
def test_floats_scale_by_the_range_that_holds_them(tmp_path: Path, values: list[float], expected: list) -> None:
    """[0, 1], [0, 255], [0, 65535], and whatever lies outside stretches from least to most."""
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tif")
    assert np.abs(decode(tmp_path / "a.tif")[0, :, 0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("top", [200, 60_000, 1 << 30])
def test_whole_numbers_of_32_bits_scale_as_floats_do(top: int) -> None:
    """The largest value of the usual range is white."""
    image = Image.fromarray(np.array([[0, top]], np.int32))
    expected = {200: 200, 60_000: 234, 1 << 30: 255}[top]
    assert to_rgb(image)[0, :, 0].tolist() == [0, expected]


def test_twelve_bits_are_scaled_as_twelve_bits(shared_data: Path) -> None:
    """A TIFF that declares 12 bits is not shown as dark 16 bits."""
    path = shared_data / "awkward/deep16/12bit.cropped.tif"
    with Image.open(path) as image:
        raw = np.asarray(image)
    np.testing.assert_array_equal(decode(path)[..., 0], raw >> 4)


def test_cmyk_jpegs_are_shown_in_color(write_picture, tmp_path: Path) -> None:
    """A CMYK JPEG, stored inverted as Adobe does, is neither refused nor negative."""
    with Image.open(write_picture("a.png", 40, 60)) as image:
        image.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
        expected = np.asarray(image.convert("CMYK").convert("RGB"))
    assert difference(decode(tmp_path / "a.jpg"), expected) < 4


def lab_profile() -> bytes:
    """A sound profile, but of another color space than RGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def test_color_profiles_are_converted(shared_data: Path) -> None:
    """Pixels of another color space become sRGB, as Pillow's color management has it; JPEG and PNG alike."""
    for name in ("icc/icc_profile_big.jpg", "orientation/xmp_tags_orientation.png"):
        path = shared_data / "awkward" / name
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            source = ImageCms.getOpenProfile(io.BytesIO(image.info["icc_profile"]))
            white = Image.new("RGB", image.size, "white")
            white.paste(image.convert("RGB"), mask=image.getchannel("A") if image.mode == "RGBA" else None)
            expected = ImageCms.profileToProfile(white, source, ImageCms.createProfile("sRGB"))
        assert difference(decode(path), np.asarray(expected)) < 1
        assert difference(decode(path), np.asarray(white)) > 5


@pytest.mark.parametrize("profile", [b"nonsense", lab_profile()])
def test_profiles_that_do_not_fit_are_ignored(write_picture, profile: bytes) -> None:
    """A damaged profile, or one of another color space, changes nothing."""
    plain = decode(write_picture("a.png", 20, 20))
    np.testing.assert_array_equal(decode(write_picture("b.png", 20, 20, icc_profile=profile)), plain)


def test_the_first_frame_is_the_picture(tmp_path: Path) -> None:
    """Of an animation or a document with pages the first is decoded."""
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    for suffix in ("gif", "webp", "tif", "png"):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        red, _, blue = decode(path)[3, 4]
        assert red > 240, suffix
        assert blue < 20, suffix


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "avif", "jp2", "ppm", "gif"])
def test_a_file_cut_short_is_an_error(write_picture, suffix: str) -> None:
    """Wherever a file is cut there is an error: never a picture that is gray from some row on."""
    path = write_picture(f"a.{suffix}", 120, 160)
    data = path.read_bytes()
    for part in (0.2, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(ImageError):
            decode(path)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_with_missing_pixels_and_an_end_is_an_error(write_picture, progressive: bool) -> None:
    """A JPEG that lost its rest but has an end marker passes the scan and is found out by decoding."""
    path = write_picture("a.jpg", 200, 300, progressive=progressive)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3] + b"\xff\xd9")
    assert read_header(path).shape == (200, 300)
    with pytest.raises(ImageError, match=r"cut short|damaged"):
        decode(path)


def test_a_changed_file_is_noticed(write_picture) -> None:
    """A file whose shape is no longer the one in the index, or that is gone, is stale: scanning again helps."""
    path = write_picture("a.jpg", 20, 30)
    assert decode(path, expected=Shape(20, 30)).shape == (20, 30, 3)
    with pytest.raises(StaleImageError, match=r"is 20 x 30 pixels now, but 30 x 20 in the index"):
        decode(path, Shape(5, 5), expected=Shape(30, 20))
    path.unlink()
    with pytest.raises(StaleImageError, match="does not exist"):
        decode(path)


def test_a_file_that_took_anothers_place_is_noticed(make_folder) -> None:
    """A picture of the same shape but another length, or written again later, is not the one that was indexed."""
    index = scan_source(make_folder(num_images=1))
    path, size = index.path(0), Shape(*index.sizes[0].tolist())
    assert decode_row(index, 0).shape == (*size, 3)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(StaleImageError, match="was written again after it was indexed"):
        decode_row(index, 0)
    Image.new("RGB", (size.width, size.height)).save(path)
    with pytest.raises(StaleImageError, match=r"is [\d,]+ bytes long now, but [\d,]+ in the index"):
        decode_row(index, 0)
    unseen = replace(index, num_bytes=index.num_bytes * 0, modified_ns=index.modified_ns * 0)
    assert decode_row(unseen, 0).max() == 0


def test_a_lack_of_memory_is_an_image_error(write_picture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that cannot be had is reported for the file, not as a crash."""
    path = write_picture("a.bmp")

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(ImageError, match="more memory"):
        decode(path)


def test_threads_decode_the_same(make_folder) -> None:
    """Many threads at once give the pixels that one thread gives."""
    index = scan_source(make_folder(num_images=20))
    paths = [index.path(row) for row in range(len(index))]
    alone = [decode(path) for path in paths]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(decode, paths), strict=True):
            np.testing.assert_array_equal(one, other)


def awkward_rows(shared_data: Path) -> dict[str, str]:
    """What the index of the awkward files says of each."""
    with (shared_data / "awkward/index.csv").open(encoding="utf-8") as file:
        return {row["path"]: row["what"] for row in csv.DictReader(file)}


def test_every_awkward_file_that_is_indexed_decodes(shared_data: Path) -> None:
    """What the scan accepts, decoding shows in the shape that the scan told; one file hides its damage."""
    folder = shared_data / "awkward"
    index = scan_source(folder)
    failed = []
    for row, key in enumerate(index.keys):
        try:
            pixels = decode(folder / key)
        except ImageError as error:
            failed.append((key, str(error)))
            continue
        assert pixels.shape == (*index.sizes[row], 3), key
    # Its pixel data are overwritten in the middle; no header tells.
    assert [key for key, _ in failed] == ["broken/hopper_bad_exif.jpg"]
    hidden = sum(note.count for note in index.notes if note.kind == "hidden")
    assert len(index) + len(index.problems) + hidden == len(awkward_rows(shared_data))


def test_orientation_variants_show_one_picture(shared_data: Path) -> None:
    """The turned variants of one photograph all show it upright, to within 4 gray levels on average."""
    folder = shared_data / "awkward"
    upright = decode(folder / "derived/UPPER.JPG").mean(axis=2)
    variants = [key for key in awkward_rows(shared_data) if "hopper_orientation" in key]
    assert len(variants) == 8
    for key in variants:
        assert difference(decode(folder / key).mean(axis=2), upright) < 4, key


def test_orientation_variants_of_tiff_show_one_picture(shared_data: Path) -> None:
    """The turned variants of one fax all show the same picture; some were dithered again."""
    first, *others = sorted((shared_data / "awkward/orientation").glob("g4_*.tif"))
    for path in others:
        assert difference(decode(path), decode(first)) < 0.5


def test_real_photographs_decode_as_pillow_does(shared_data: Path) -> None:
    """JPEGs as they come from phones and cameras: to within a gray level of Pillow where no profile changes them."""
    paths = sorted((shared_data / "photos/clothing/val/hat").iterdir())
    for path in paths:
        assert difference(decode(path), by_pillow(path)) < 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory as Linux does")
@pytest.mark.parametrize(("suffix", "size"), [("jpg", None), ("webp", None), ("tif", None), ("png", Shape(1900, 1950))])
def test_memory_stays_below_the_bound(write_picture, suffix: str, size: Shape | None) -> None:
    """The measured peak of one decode is within what `decode_peak_bytes` reserves for it."""
    script = r"""
import re, sys
from pathlib import Path
from unsquare.data.decode import decode
from unsquare.shapes import Shape
peak = lambda: 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
decode(Path(sys.argv[1]), Shape(int(sys.argv[2]), int(sys.argv[3])))
print(peak() - before)
"""
    shape = Shape(2000, 2000)
    size = size or shape
    path = write_picture(f"a.{suffix}", *shape)
    command = [sys.executable, "-c", script, path, *map(str, size)]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 3 * size.pixels <= peak <= decode_peak_bytes(shape, size, read_header(path).bytes_per_pixel)


def test_the_canvas_around_a_small_first_frame_is_white(tmp_path: Path) -> None:
    """Nothing was drawn there: neither the first color of a GIF's palette nor black is shown."""
    frame = b",\2\0\1\0\1\0\1\0\0" + b"\2\2\x44\1\0"  # one pixel of color 0 at (1, 2)
    path = tmp_path / "a.gif"
    path.write_bytes(b"GIF89a\5\0\4\0\x80\0\0" + b"\xc8\0\0\0\0\xff" + frame + b";")
    expected = np.full((4, 5, 3), 255, np.uint8)
    expected[1, 2] = 200, 0, 0
    np.testing.assert_array_equal(decode(path), expected)


def test_the_canvas_around_a_small_frame_of_a_webp_is_white(tmp_path: Path) -> None:
    """Also where the header does not promise opacity."""
    path = tmp_path / "a.webp"
    Image.new("RGB", (6, 4), (200, 0, 0)).save(path, lossless=True)
    pixels = path.read_bytes()[12:]
    sizes = [n.to_bytes(3, "little") for n in (1, 1, 5, 3, 100)]
    frame = b"".join(sizes) + b"\0" + pixels
    chunks = [(b"VP8X", b"\2\0\0\0\x0b\0\0\x09\0\0"), (b"ANIM", bytes(6)), (b"ANMF", frame)]
    body = b"".join(name + len(data).to_bytes(4, "little") + data for name, data in chunks)
    path.write_bytes(b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body)
    expected = np.full((10, 12, 3), 255, np.uint8)
    expected[2:6, 2:8] = 200, 0, 0
    np.testing.assert_array_equal(decode(path), expected)


def test_profiles_of_jpeg_2000_are_applied(tmp_path: Path, write_picture, shared_data: Path) -> None:
    """Its header box holds them; the colors are those of a PNG with the same profile."""
    with Image.open(shared_data / "awkward/icc/icc_profile_big.jpg") as image:
        profile = image.info["icc_profile"]
    Image.open(write_picture("a.png")).save(tmp_path / "b.png", icc_profile=profile)
    data = write_picture("a.jp2", irreversible=False).read_bytes()
    header, color = data.index(b"jp2h") - 4, data.index(b"colr") - 4
    box = (len(profile) + 11).to_bytes(4, "big") + b"colr\2\0\0" + profile
    length = int.from_bytes(data[header : header + 4], "big") - 15 + len(box)
    data = data[:header] + length.to_bytes(4, "big") + data[header + 4 : color] + box + data[color + 15 :]
    (tmp_path / "b.jp2").write_bytes(data)
    assert difference(decode(tmp_path / "b.png"), decode(tmp_path / "a.png")) > 3
    assert difference(decode(tmp_path / "b.jp2"), decode(tmp_path / "b.png")) < 0.5
