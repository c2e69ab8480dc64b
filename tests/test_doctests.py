"""The examples in the docstrings of public names run, and say what they say."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unsquare

PUBLIC = [name for name in unsquare.__all__ if name != "__version__"]
SHARED = ("profile", "ProfileResult")
"""The second reads what the first measured, which takes seconds; its own call is marked as skipped."""


def examples_of(name: str, variables: dict[str, Any]) -> doctest.DocTest:
    """The example of a public name, which sees these variables."""
    text = getattr(unsquare, name).__doc__ or ""
    _, _, example = text.partition("Example:\n")
    return doctest.DocTestParser().get_doctest(example, variables, name, f"<docstring of unsquare.{name}>", 0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos` of two classes, each of another shape, and a run trained on them, `runs/photos`."""
    folder = tmp_path_factory.mktemp("examples")
    rng = np.random.default_rng(0)
    for split, num_images in (("train", 4), ("val", 1)):
        for label in ("silk", "wool"):
            for number in range(num_images):
                path = folder / "photos" / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                height, width = 40 + 4 * number, 64 - 4 * number
                Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    settings = {"backbone": "test_resnet", "epochs": 1, "accelerator": "cpu", "budget_pixels": 20_000}
    unsquare.train(folder / "photos", folder / "runs" / "photos", quiet=True, **settings)
    return folder


def test_every_public_name_has_an_example():
    """Whoever asks `help` for a name of the package sees how it is used."""
    counts = {name: len(examples_of(name, {}).examples) for name in PUBLIC}
    print(f"{sum(counts.values())} lines of examples for {len(counts)} public names")
    assert [name for name, count in counts.items() if not count] == []


@pytest.mark.parametrize("names", [SHARED, *((name,) for name in PUBLIC if name not in SHARED)], ids=" ".join)
def test_examples_say_what_happens(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    """In a copy of the folder, with nothing but the package imported."""
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    variables: dict[str, Any] = {"unsquare": unsquare}
    reports: list[str] = []
    for name in names:
        runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        test = examples_of(name, variables)
        runner.run(test, out=reports.append, clear_globs=False)
        variables = test.globs
        assert not runner.failures, "".join(reports)
