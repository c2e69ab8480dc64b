"""Small pictures and settings with which a whole run takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def losses(run: Path) -> list[float]:
    """The loss of each step, as written down."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "step"]
