"""The embedded dataset: seeded, complete, and a task that only fine texture solves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from unsquare.demo.materials import MANIFEST, MaterialsConfig, make_materials
from unsquare.demo.sizes import draw_shape
from unsquare.demo.textures import MATERIALS
from unsquare.errors import ConfigError, SourceError

SMALL = MaterialsConfig(num_train=12, num_val=6, num_test=6, mean_pixels=4000, seed=5)
HONEST = MaterialsConfig(num_train=120, num_val=6, num_test=72, mean_pixels=80_000, seed=1)
CHANCE = 1 / len(MATERIALS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset."""
    return make_materials(tmp_path_factory.mktemp("data") / "small", SMALL, workers=2)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset large enough to measure what can be told from it."""
    return make_materials(tmp_path_factory.mktemp("data") / "honest", HONEST, workers=2)


def read(folder: Path, split: str) -> tuple[list[Image.Image], npt.NDArray[np.str_]]:
    """The pictures of a split and their materials."""
    paths = sorted((folder / split).glob("*/*"))
    return [Image.open(path).convert("RGB") for path in paths], np.array([path.parent.name for path in paths])


def digests(folder: Path) -> dict[str, str]:
    """A hash of each file by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def nearest_neighbor(train: npt.NDArray, train_y: npt.NDArray, test: npt.NDArray, test_y: npt.NDArray) -> float:
    """Accuracy of the nearest training example, features standardized."""
    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-9
    distance = np.linalg.norm((test - mean)[:, None] / std - (train - mean)[None] / std, axis=-1)
    return float((train_y[distance.argmin(axis=1)] == test_y).mean())


def nearest_centroid(train: npt.NDArray, train_y: npt.NDArray, test: npt.NDArray, test_y: npt.NDArray) -> float:
    """Accuracy of the nearest class mean, features standardized."""
    names = np.unique(train_y)
    centroids = np.stack([train[train_y == name].mean(axis=0) for name in names])
    std = train.std(axis=0) + 1e-9
    distance = np.linalg.norm(test[:, None] / std - centroids[None] / std, axis=-1)
    return float((names[distance.argmin(axis=1)] == test_y).mean())


def texture_features(image: Image.Image) -> npt.NDArray[np.float64]:
    """How brightness varies in the middle: power per frequency band, and how directed each band is."""
    gray = np.log(np.asarray(image.convert("L"), dtype=np.float64) + 8)
    height, width = gray.shape
    side = min(64, *gray.shape)
    top, left = (height - side) // 2, (width - side) // 2
    patch = gray[top : top + side, left : left + side]
    power = np.abs(np.fft.fft2((patch - patch.mean()) * np.outer(np.hanning(side), np.hanning(side)))) ** 2
    frequency = np.fft.fftfreq(side)
    fy, fx = np.meshgrid(frequency, frequency, indexing="ij")
    radius, angle = np.hypot(fy, fx), np.arctan2(fy, fx)
    features = []
    for low, high in zip((0.06, 0.1, 0.14, 0.18, 0.23, 0.28, 0.34), (0.1, 0.14, 0.18, 0.23, 0.28, 0.34, 0.5)):
        band = (radius >= low) & (radius < high)
        energy = power[band].sum() + 1e-9
        two = abs((power[band] * np.exp(2j * angle[band])).sum()) / energy
        four = abs((power[band] * np.exp(4j * angle[band])).sum()) / energy
        features += [np.log(energy), two, four]
    logs = np.array(features)
    logs[::3] -= logs[::3].mean()
    return logs


def test_same_settings_give_the_same_bytes(small: Path, tmp_path: Path) -> None:
    """Two makings with different numbers of workers agree to the byte."""
    again = make_materials(tmp_path / "again", SMALL, workers=1)
    assert digests(again) == digests(small)


def test_another_seed_gives_other_pictures(small: Path, tmp_path: Path) -> None:
    """The seed reaches every picture."""
    config = MaterialsConfig(num_train=12, num_val=6, num_test=6, mean_pixels=4000, seed=6)
    other = digests(make_materials(tmp_path / "other", config))
    assert not set(other.values()) & set(digests(small).values())


def test_every_material_has_the_same_number_in_every_split(small: Path) -> None:
    """Files lie where a folder source looks for them."""
    counts = {split: [len(list((small / split / name).iterdir())) for name in MATERIALS] for split in ("train", "val")}
    assert counts == {"train": [2] * len(MATERIALS), "val": [1] * len(MATERIALS)}
    assert len(MATERIALS) >= 6


def test_some_pictures_are_png_and_all_are_readable(honest: Path) -> None:
    """More than one decoder is at work."""
    images, _ = read(honest, "train")
    assert all(image.mode == "RGB" for image in images)
    assert {path.suffix for path in (honest / "train").rglob("*.*")} == {".jpg", ".png"}


def test_an_equal_dataset_is_reused(small: Path) -> None:
    """The second call touches nothing."""
    before = (small / MANIFEST).stat().st_mtime_ns
    assert make_materials(small, SMALL) == small
    assert (small / MANIFEST).stat().st_mtime_ns == before


def test_other_settings_are_refused(small: Path) -> None:
    """A dataset made otherwise is neither overwritten nor used."""
    with pytest.raises(SourceError, match="made with other settings"):
        make_materials(small, HONEST)


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    """Somebody's own files are safe."""
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(SourceError, match="new or empty"):
        make_materials(tmp_path, SMALL)
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_an_incomplete_dataset_is_refused(tmp_path: Path) -> None:
    """A picture that was deleted is noticed."""
    folder = make_materials(tmp_path / "data", SMALL)
    next((folder / "val").rglob("*.jpg")).unlink()
    with pytest.raises(SourceError, match="23 of its 24 pictures"):
        make_materials(folder, SMALL)


def test_an_interrupted_making_leaves_nothing(tmp_path: Path) -> None:
    """The folder appears whole or not at all."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_materials(tmp_path / "data", SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    """Progress is called once a picture."""
    seen: list[tuple[int, int]] = []
    make_materials(tmp_path / "data", SMALL, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 24) for done in range(1, 25)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_val": 5}, "num_val must be at least 6"),
        ({"mean_pixels": 9}, "mean_pixels"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, int], message: str) -> None:
    """Each message names the setting."""
    with pytest.raises(ConfigError, match=message):
        MaterialsConfig(**settings)


def test_sizes_are_spread_as_museum_photographs_are() -> None:
    """The mean is as asked for, the largest has 24 times the pixels of the smallest, aspect ratios vary."""
    ranks = (np.arange(400) + 0.5) / 400
    shapes = np.array([draw_shape(rank, rank * 7.31 % 1, 150_000) for rank in ranks])
    pixels = shapes.prod(axis=1)
    assert pixels.mean() == pytest.approx(150_000, rel=0.02)
    assert 18 < pixels.max() / pixels.min() <= 25
    aspect = shapes[:, 1] / shapes[:, 0]
    assert aspect.min() < 0.4
    assert aspect.max() > 2


def test_shape_says_nothing_of_the_class(honest: Path) -> None:
    """Every class has like sizes, and the nearest known size gives the class by chance only."""
    train, train_y = read(honest, "train")
    test, test_y = read(honest, "test")
    train_x, test_x = (np.log([image.size for image in images]) for images in (train, test))
    pixels = {name: np.exp(train_x[train_y == name].sum(axis=1)).mean() for name in MATERIALS}
    assert max(pixels.values()) / min(pixels.values()) < 1.1
    assert nearest_neighbor(train_x, train_y, test_x, test_y) < CHANCE + 0.14


def test_color_says_nothing_of_the_class(honest: Path) -> None:
    """The nearest known mean and spread of color gives the class by chance only."""
    train, train_y = read(honest, "train")
    test, test_y = read(honest, "test")

    def colors(images: list[Image.Image]) -> npt.NDArray[np.float64]:
        pixels = [np.asarray(image, dtype=np.float64).reshape(-1, 3) for image in images]
        return np.stack([np.concatenate([one.mean(axis=0), one.std(axis=0)]) for one in pixels])

    assert nearest_neighbor(colors(train), train_y, colors(test), test_y) < CHANCE + 0.14


def test_texture_gives_the_class_until_it_is_squashed(honest: Path) -> None:
    """A texture descriptor finds the class at native size and loses it on a square of 64 pixels."""
    train, train_y = read(honest, "train")
    test, test_y = read(honest, "test")

    def accuracy(side: int | None) -> float:
        train_x, test_x = (
            np.stack([texture_features(one.resize((side, side)) if side else one) for one in images])
            for images in (train, test)
        )
        return nearest_centroid(train_x, train_y, test_x, test_y)

    native, squashed = accuracy(None), accuracy(64)
    assert native > 0.8
    assert squashed < native - 0.3
