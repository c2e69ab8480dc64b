"""Real photographs that were saved again are found, and different ones are not."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps

from unsquare.cli import main
from unsquare.data.duplicates import DISTANCE, find_duplicates, fingerprint
from unsquare.index import scan_source


def saved_again(image: Image.Image) -> dict[str, tuple[Image.Image, dict[str, int]]]:
    """A picture by what was done to it, with the settings to save it with."""
    width, height = image.size
    return {
        "worse.jpg": (image, {"quality": 30}),
        "half.jpg": (image.resize((width // 2, height // 2), Image.Resampling.LANCZOS), {"quality": 85}),
        "third.webp": (image.resize((width // 3, height // 3), Image.Resampling.BICUBIC), {"quality": 80}),
        "larger.png": (image.resize((width * 3 // 2, height * 3 // 2), Image.Resampling.BICUBIC), {}),
        "brighter.jpg": (image.point(lambda value: min(255, int(value * 1.15))), {"quality": 85}),
        "gray.jpg": (image.convert("L"), {"quality": 85}),
    }


@pytest.fixture(scope="module")
def photographs(shared_data, tmp_path_factory):
    """Forty photographs of clothing to train on, and copies of eight of them in val, some of another class."""
    folder = tmp_path_factory.mktemp("photographs")
    pictures = sorted((shared_data / "photos" / "clothing" / "train").rglob("*.jpg"))[::8][:40]
    for number, path in enumerate(pictures):
        target = folder / "train" / path.parent.name / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        if number % 5 == 0:
            image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
            for name, (made, settings) in saved_again(image).items():
                label = path.parent.name if name != "gray.jpg" else "other"
                copy = folder / "val" / label / f"{number}-{name}"
                copy.parent.mkdir(parents=True, exist_ok=True)
                made.save(copy, **settings)
    return folder


def test_copies_are_found_and_nothing_else(photographs):
    """Each of the 48 copies is found beside its original in train, and no pair is of different photographs."""
    index = scan_source(photographs)
    found = find_duplicates(index)
    numbers = [
        [index.keys[row].rsplit("/", 1)[1].split(".")[0].split("-")[0] for row in (each.first, each.second)]
        for each in found
    ]
    assert [one == other for one, other in numbers] == [True] * len(found)
    beside = {index.keys[each.second] for each in found if index.keys[each.first].startswith("train")}
    assert len(beside) == 48
    assert all(each.in_two_splits for each in found[:48])
    assert sum(each.with_two_labels for each in found[:48]) == 8


def test_the_scan_names_them(photographs, tmp_path, capsys):
    """As lines, as remarks and in JSON, and the index has them as groups only where splits do not tear them apart."""
    out = tmp_path / "index.parquet"
    assert main(["scan", str(photographs), "--out", str(out), "--duplicates"]) == 0
    said = capsys.readouterr().out
    assert "near-duplicates in two splits with two labels (" in said
    assert "more pairs; --json lists all." in said
    assert "remark: 48 pairs of near-duplicates in two splits: 'train/" in said
    assert main(["scan", str(photographs), "--out", str(out), "--duplicates", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert len(values["duplicates"]) >= 48
    assert values["duplicates"][0]["splits"] == ["train", "val"]
    assert values["duplicates"][0]["distance"] <= DISTANCE
    assert {remark["kind"] for remark in values["remarks"]} >= {"near_duplicate_in_two_splits"}
    assert set(scan_source(out).groups) == {""}
    shutil.copytree(photographs / "val", tmp_path / "one", dirs_exist_ok=True)
    assert main(["scan", str(tmp_path / "one"), "--out", str(tmp_path / "one.parquet"), "--duplicates"]) == 0
    assert len(set(scan_source(tmp_path / "one.parquet").groups) - {""}) == 8


def test_photographs_before_one_wall_are_different(shared_data):
    """Of 300 photographs of shirts and coats no two are taken for the same."""
    index = scan_source(shared_data / "photos" / "clothing-large")
    few = index.take(np.flatnonzero(index.splits == "val")[::2])
    assert len(few) > 290
    assert find_duplicates(few) == ()


def test_blank_and_damaged_pictures_are_left_out(tmp_path):
    """A blank page has no structure to compare, and a picture that does not decode has no pixels."""
    for number in range(2):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", (90 + number, 80), "white").save(tmp_path / "a" / f"{number}.png")
        Image.radial_gradient("L").save(tmp_path / "a" / f"cut-{number}.jpg", quality=90 + number)
        path = tmp_path / "a" / f"cut-{number}.jpg"
        path.write_bytes(path.read_bytes()[:-400] + b"\xff\xd9")
    assert fingerprint(np.full((64, 64, 3), 200, dtype=np.uint8)) is None
    assert find_duplicates(scan_source(tmp_path)) == ()
