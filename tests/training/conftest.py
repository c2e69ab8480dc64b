"""Small pictures and settings with which a whole run takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unsquare.demo.materials import MaterialsConfig, make_materials


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Twenty-four pictures of six materials in as many shapes, with train, val and test."""
    config = MaterialsConfig(num_train=24, num_val=6, num_test=6, mean_pixels=6_000)
    return make_materials(tmp_path_factory.mktemp("materials") / "pictures", config)


@pytest.fixture
def unsquare():
    """Runs the command line in a process of its own; returns the finished process."""

    def run(*arguments: object, launcher: tuple[str, ...] = (), timeout: float = 240) -> subprocess.CompletedProcess:
        command = [sys.executable, *launcher, "-m", "unsquare", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment(), check=False)

    return run


def environment() -> dict[str, str]:
    """The environment of a process under test: sleeping threads, two of them at most."""
    return os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}


def write_noise(folder: Path, counts: dict[str, tuple[int, int]]) -> Path:
    """Write pictures of noise in two classes, so many of each in each split; returns the folder."""
    rng = np.random.default_rng(0)
    for split, of_class in counts.items():
        for label, count in zip("ab", of_class, strict=True):
            for number in range(count):
                path = folder / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                height, width = rng.integers(36, 64, 2)
                Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
    return folder


def losses(run: Path) -> list[float]:
    """The loss of each step, as written down."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "step"]
