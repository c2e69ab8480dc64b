"""Every kind of pixel that formats allow, against values worked out without a decoder."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from unsquare.data.decode import decode
from unsquare.index import read_header


@pytest.fixture
def matrix(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the benchmarks that writes the files, bit by bit, and knows their pixels."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    return importlib.import_module("picture_matrix")


@pytest.mark.parametrize("kind", ["tiff", "png", "profile", "pnm", "bmp", "jpeg"])
def test_every_kind_of_pixel_is_shown_as_it_was_written(matrix: ModuleType, tmp_path: Path, kind: str) -> None:
    """Depth, sign, byte order, layout, compression, palette, opacity, key, profile, sampling: none is shown wrongly."""
    path = tmp_path / "picture"
    cases = list(getattr(matrix, f"{kind}_cases")())
    # Of 3,550 TIFFs a third; `benchmarks/adversarial_pictures.py` reads all.
    for case in cases[:: 3 if kind == "tiff" else 1]:
        path.write_bytes(case.data)
        pixels = decode(path)
        assert pixels.shape == case.expected.shape == (*read_header(path).shape, 3), case.name
        assert np.abs(pixels.astype(int) - case.expected).max() <= case.tolerance, case.name
    assert len(cases) >= {"tiff": 3500, "png": 60, "profile": 120, "pnm": 60, "bmp": 80, "jpeg": 100}[kind]


def test_small_files_that_once_went_wrong(shared_data: Path) -> None:
    """Lossless ones to within 2 levels, JPEG to within 41 at an edge of color and 3 on average."""
    files = sorted((shared_data / "cases/images").glob("*[!y]"))
    for path in (path for path in files if path.name != "no_eoi.jpg"):
        expected = np.load(f"{path}.npy", allow_pickle=False)
        difference = np.abs(decode(path).astype(int) - expected)
        assert difference.max() <= (41 if path.suffix == ".jpg" else 2), path.name
        assert difference.mean() < 3, path.name


@pytest.mark.parametrize("planar", [False, True])
def test_opacity_beside_a_palette_counts(matrix: ModuleType, tmp_path: Path, planar: bool) -> None:
    """A transparent pixel is white, whatever its color."""
    rows = np.arange(matrix.HEIGHT * matrix.WIDTH).reshape(matrix.HEIGHT, matrix.WIDTH).astype(np.uint8)
    table = np.stack([np.arange(256), np.arange(255, -1, -1), np.full(256, 7)])
    alpha = np.where(rows % 2, 255, 0).astype(np.uint8)
    tags = {320: ("H", tuple((table * 257).ravel().tolist()))}
    samples = np.dstack([rows, alpha])
    (tmp_path / "a.tif").write_bytes(matrix.tiff(samples, 8, 3, extra=(2,), planar=planar, tags=tags))
    expected = np.where(alpha[..., None] == 0, 255, table.T[rows])
    np.testing.assert_array_equal(decode(tmp_path / "a.tif"), expected)
