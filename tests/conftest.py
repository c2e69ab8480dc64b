"""Shared by all tests: where the shared data lie, and small folders of pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# As the command line does, and before torch is loaded: waiting threads sleep, so that a busy machine stays quick.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: tests download nothing
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: more than one thread each would wait for another
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared test data; tests that need it are skipped where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("UNSQUARE_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"the shared data are not at {folder} (set UNSQUARE_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests measure stays out of the user's cache; all workers share a new one."""
    base = tmp_path_factory.getbasetemp()
    os.environ["XDG_CACHE_HOME"] = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache")


@pytest.fixture
def make_folder(tmp_path: Path):
    """A function that writes class folders of small JPEG pictures and returns their folder."""

    def make(
        classes: Sequence[str] | Mapping[str, int] = ("cat", "dog"),
        *,
        num_images: int = 4,
        splits: Sequence[str] = ("",),
        name: str = "pictures",
        seed: int = 0,
    ) -> Path:
        """Classes by name, or with their own numbers of images; every shape differs."""
        counts = classes if isinstance(classes, Mapping) else dict.fromkeys(classes, num_images)
        rng = np.random.default_rng(seed)
        root = tmp_path / name
        for split in splits:
            for label, count in counts.items():
                for i in range(count):
                    height, width = rng.integers(16, 64, size=2)
                    path = root / split / label / f"{i}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _picture(height, width, rng).save(path)
        return root

    return make


@pytest.fixture
def write_picture(tmp_path: Path):
    """A function that writes a smooth random picture below `tmp_path`, in the format of the name."""

    def write(name: str, height: int = 20, width: int = 30, **options: object) -> Path:
        path = tmp_path / name
        _picture(height, width, np.random.default_rng(height * width)).save(path, **options)
        return path

    return write


def _picture(height: int, width: int, rng: np.random.Generator) -> Image.Image:
    """A smooth random color picture: JPEG keeps it nearly unchanged."""
    seeds = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return seeds.resize((int(width), int(height)), Image.Resampling.BICUBIC)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)
