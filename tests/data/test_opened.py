"""Pictures of Pillow are shown as their files are."""

from __future__ import annotations

import importlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from unsquare.data.decode import decode
from unsquare.data.opened import decode_opened, shape_of
from unsquare.errors import ImageError
from unsquare.index import read_header
from unsquare.index.choices import Choices

GRAY = np.arange(24 * 40, dtype=np.uint8).reshape(24, 40)
COLOR = np.dstack([GRAY, GRAY[::-1], 255 - GRAY])


def opened(path: Path) -> Image.Image:
    """The picture in a file, opened from memory: nothing tells where the file is."""
    return Image.open(io.BytesIO(path.read_bytes()))


def shown(image: Image.Image, **options: int) -> np.ndarray:
    """The pixels of a picture of Pillow, whatever pages there are."""
    return decode_opened(image, shape_of(image, Choices(pages="first")), **options)


def assert_as_file(path: Path, image: Image.Image) -> None:
    """The picture gives what the file gives, or the same refusal."""
    try:
        expected = decode(path)
    except ImageError as error:
        with pytest.raises(ImageError, match=f"^{re.escape(str(error))}$"):
            shown(image)
        return
    assert shape_of(image, Choices(pages="first")) == read_header(path).shape, path.name
    np.testing.assert_array_equal(shown(image), expected, err_msg=path.name)


@pytest.mark.filterwarnings("ignore")  # Pillow's, while it opens damaged files
def test_real_files_give_the_same_in_memory(shared_data: Path) -> None:
    """Orientation, profiles, palettes, opacity, animations, damage and bombs: none is told from the file's own."""
    files = [*(shared_data / "awkward").glob("*/*"), *(shared_data / "cases/images").glob("*[!y]")]
    num_compared = 0
    for path in sorted(path for path in files if path.stat().st_size < 10_000_000):
        try:
            image = opened(path)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue  # Pillow has no such picture
        assert_as_file(path, image)
        num_compared += 1
    assert num_compared > 90


@pytest.mark.parametrize("kind", ["tiff", "png", "profile", "pnm", "bmp", "jpeg"])
def test_every_kind_of_pixel_gives_the_same_in_memory(kind: str, tmp_path: Path, monkeypatch) -> None:
    """Also where Pillow itself reads samples, keys or planes in another way."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    cases = list(getattr(importlib.import_module("picture_matrix"), f"{kind}_cases")())
    path = tmp_path / "picture"
    num_compared = 0
    for case in cases[:: 40 if kind == "tiff" else 5]:
        path.write_bytes(case.data)
        try:
            image = opened(path)
        except UnidentifiedImageError:
            continue
        assert_as_file(path, image)
        num_compared += 1
    assert num_compared > 10


def small_frame(path: Path, num_frames: int = 1) -> Path:
    """A GIF whose frame is smaller than its screen, and whose first color is no white."""
    frame = Image.new("P", (4, 3), 1)
    frame.putpalette([255, 0, 0, 0, 0, 255])
    frame.save(path, save_all=True, append_images=[frame] * (num_frames - 1), duration=9)
    data = bytearray(path.read_bytes())
    data[6:10] = bytes([10, 0, 8, 0])
    at = data.index(b",\0\0\0\0\4\0\3\0")
    data[at + 1 : at + 5] = bytes([2, 0, 1, 0])
    path.write_bytes(data)
    return path


def test_the_canvas_around_a_small_frame_is_white(tmp_path: Path) -> None:
    """Whether the picture was only opened, or is loaded already."""
    path = small_frame(tmp_path / "a.gif")
    expected = np.full((8, 10, 3), 255, np.uint8)
    expected[1:4, 2:6] = (0, 0, 255)
    np.testing.assert_array_equal(decode(path), expected)
    image = opened(path)
    np.testing.assert_array_equal(shown(image), expected)
    image.load()
    np.testing.assert_array_equal(shown(image), expected)


def test_empty_opacity_of_a_loaded_bmp_is_no_opacity(shared_data: Path) -> None:
    """As from the file; the picture itself is left as it is."""
    path = shared_data / "cases/images/b32_v4_alpha0.bmp"
    image = opened(path)
    image.load()
    np.testing.assert_array_equal(shown(image), decode(path))
    assert image.getchannel("A").getextrema() == (0, 0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "bmp", "avif", "jp2", "ppm", "ico"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_loaded_pictures_of_usual_kinds_give_the_same(tmp_path: Path, suffix: str, mode: str) -> None:
    """To within a level; JPEG to within four, since another decoder reads the file."""
    picture = Image.fromarray(GRAY.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(COLOR).convert(mode)
    if mode == "RGBA":
        picture.putalpha(Image.fromarray(GRAY[:, ::-1]))
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    try:
        picture.save(path, **({"exif": exif} if suffix in ("jpg", "png", "webp", "avif") else {}))
    except (OSError, KeyError, ValueError):
        pytest.skip(f"Pillow writes no {suffix} of mode {mode}")
    image = opened(path)
    image.load()
    difference = np.abs(shown(image).astype(int) - decode(path))
    assert difference.max() <= (4 if suffix == "jpg" else 1)


def test_a_picture_that_was_only_opened_stays_so(write_picture) -> None:
    """It can be read by Pillow afterwards, and two may share one file in memory."""
    path = write_picture("a.png", 30, 40)
    file = io.BytesIO(path.read_bytes())
    one, other = Image.open(file), Image.open(file)
    for image in (one, other, one):
        np.testing.assert_array_equal(shown(image), decode(path))
    np.testing.assert_array_equal(np.asarray(other.convert("RGB")), decode(path))


def test_a_long_file_given_open_is_refused(write_picture, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be read whole, so its length has a limit; one that is in memory already has none, nor has a path."""
    path = write_picture("a.png", 30, 40)
    monkeypatch.setattr("unsquare.data.opened.MAX_WHOLE_BYTES", path.stat().st_size - 1)
    with path.open("rb") as file:
        image = Image.open(file)
        with pytest.raises(ImageError, match=r"is an open file of .* give its path"):
            shape_of(image)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), decode(path))  # where Pillow left it
    np.testing.assert_array_equal(shown(opened(path)), decode(path))


def test_choices_count_for_a_file_in_memory(tmp_path: Path) -> None:
    """Pages are refused until one is chosen; bits are shown as chosen."""
    Image.fromarray(GRAY).save(tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(GRAY)])
    with pytest.raises(ImageError, match="has 2 pages"):
        shape_of(opened(tmp_path / "a.tif"))
    Image.fromarray(GRAY.astype(np.uint16) << 4).save(tmp_path / "b.png")
    np.testing.assert_array_equal(shown(opened(tmp_path / "b.png"), bits=12)[..., 0], GRAY)
