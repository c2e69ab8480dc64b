"""Files that can be read in more than one way wait for the user's choice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from unsquare.cli import main
from unsquare.data.decode import decode, decode_row
from unsquare.errors import ConfigError
from unsquare.index import ShapeIndex, scan, scan_source
from unsquare.index.choices import Choices

TWELVE = np.linspace(0, 4095, 24 * 40).reshape(24, 40).astype(np.uint16)


def problems(root: Path, **choices) -> list[str]:
    """The reasons of a scan with these choices."""
    return [problem.reason for problem in scan_source(root, choices=Choices(**choices)).problems]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a class."""
    (tmp_path / "source/cat").mkdir(parents=True)
    return tmp_path / "source"


def test_pages_wait_for_a_choice(root: Path) -> None:
    """A TIFF of several pages is a problem that names the choice; with it, the first page is the picture."""
    pages = np.stack([np.full((24, 40), level, np.uint8) for level in (10, 20, 30, 40, 50)])
    tifffile.imwrite(root / "cat/a.tif", pages, photometric="minisblack")
    assert [reason.split(",")[0] for reason in problems(root)] == ["has 5 pages"]
    assert "--pages first" in problems(root)[0]
    assert problems(root, pages="first") == []
    assert decode(root / "cat/a.tif").max() == 10


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_bits_that_are_not_used_wait_for_a_choice(root: Path, suffix: str) -> None:
    """12 bits in 16 are said, with both ranges; the choice shows them as black to white, or as declared."""
    path = root / f"cat/a.{suffix}"
    Image.fromarray(TWELVE).save(path)
    assert "declares samples of 16 bits, 0 to 65,535, but uses only 0 to 4,095" in problems(root)[0]
    assert "--bits 12" in problems(root)[0]
    for bits, most in ((12, 255), (16, 15)):
        index = scan_source(root, choices=Choices(bits=bits))
        assert len(index) == 1
        pixels = decode_row(index, 0)
        assert (pixels.min(), pixels.max()) == (0, most)
        np.testing.assert_array_equal(pixels[..., 0], TWELVE >> (bits - 8))


@pytest.mark.parametrize("scale", [4, 16])
def test_files_that_use_their_range_need_no_choice(root: Path, scale: int) -> None:
    """A quarter of the range and more is what it seems; black pictures say nothing; PGM declares its range."""
    for name in ("a.tif", "b.png"):
        Image.fromarray(TWELVE * scale + (scale == 4) * 10).save(root / f"cat/{name}")
    Image.fromarray(TWELVE * 0).save(root / "cat/black.png")
    (root / "cat/dark.pgm").write_bytes(b"P5 40 24 65535\n" + TWELVE.astype(">u2").tobytes())
    (root / "cat/dark12.pgm").write_bytes(b"P5 40 24 4095\n" + TWELVE.astype(">u2").tobytes())
    assert problems(root) == []


def test_opacity_has_all_of_its_bits(root: Path) -> None:
    """The choice concerns colors: full opacity stays full."""
    pixels = np.dstack([TWELVE, TWELVE, TWELVE, np.full_like(TWELVE, 65535)])
    tifffile.imwrite(root / "cat/a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    assert "--bits 12" in problems(root)[0]
    np.testing.assert_array_equal(decode(root / "cat/a.tif", bits=12)[..., 1], TWELVE >> 4)


def test_choices_are_kept_in_the_index(root: Path, tmp_path: Path) -> None:
    """They come back from the file, go into parts of it, and another choice reads all files again."""
    Image.fromarray(TWELVE).save(root / "cat/a.png")
    chosen = scan(root, choices=Choices(bits=12))
    chosen.index.write(tmp_path / "index.parquet")
    index = ShapeIndex.read(tmp_path / "index.parquet")
    assert index.choices == index.take([0]).choices == Choices(bits=12)
    assert scan(root, choices=Choices(bits=12), previous=index).num_read == 0
    assert scan(root, previous=index).num_read == 1
    assert scan_source(tmp_path / "index.parquet").choices == Choices(bits=12)


def test_the_command_line_asks_and_takes_the_choice(root: Path, tmp_path: Path, capsys) -> None:
    """`scan` prints the problem, then, with the flag, none."""
    Image.fromarray(TWELVE).save(root / "cat/a.png")
    command = ["scan", str(root), "--out", str(tmp_path / "index.parquet")]
    assert main(command) == 0
    assert "problems: 1," in capsys.readouterr().out
    assert main([*command, "--bits", "12"]) == 0
    assert "problems: 0," in capsys.readouterr().out


def test_choices_are_checked() -> None:
    """What is no choice is refused by name."""
    for wrong in ({"pages": "last"}, {"bits": 7}, {"bits": 17}, {"bits": 12.5}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be"):
            Choices(**wrong)
