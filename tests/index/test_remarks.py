"""What is said of an index before it is trained on."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unsquare.index import ShapeIndex, class_counts, find_remarks, scan_source
from unsquare.index.copies import find_copies
from unsquare.index.text import strings


def said(index: ShapeIndex) -> dict[str, str]:
    """The texts of all remarks by kind."""
    return {remark.kind: remark.text for remark in find_remarks(index)}


def test_nothing_to_say_of_a_whole_source(make_folder) -> None:
    """Classes of several different pictures in train and val."""
    assert said(scan_source(make_folder(splits=("train", "val")))) == {}


def test_a_single_class_is_said(make_folder) -> None:
    """There is nothing to tell apart."""
    assert said(scan_source(make_folder(["cat"])))["one_class"].startswith("All images are of one class, 'cat', so")


def test_a_group_in_two_splits_is_said(make_folder) -> None:
    """By its name and two of its files."""
    index = scan_source(make_folder(splits=("train", "val"), num_images=2))
    index = replace(index, groups=strings(["p1", "p2", "", "", "p1", "p3", "", "p3"]))
    assert said(index)["torn_group"] == (
        "1 group in more than one split, which training refuses: 'p1 (train: train/cat/0.jpg, val: val/cat/0.jpg)'."
    )


def test_classes_are_counted_by_split(make_folder) -> None:
    """The table has a column for each split that there is, and a zero where a class lacks it."""
    root = make_folder(splits=("train", "val"), num_images=2)
    shutil.rmtree(root / "val/dog")
    assert class_counts(scan_source(root)) == {"cat": {"train": 2, "val": 2}, "dog": {"train": 2, "val": 0}}
    assert class_counts(scan_source(root / "train")) == {"cat": {"": 2}, "dog": {"": 2}}


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_train_lacks_is_said(make_folder, split: str) -> None:
    """A class in val or test alone can never be learned."""
    root = make_folder({"cat": 2, "dog": 2}, splits=("train", "val"))
    make_folder({"owl": 2}, splits=(split,))
    assert said(scan_source(root))[f"only_in_{split}"].endswith("never learned: 'owl'.")


def test_small_and_empty_classes_are_said(make_folder) -> None:
    """A class of one picture, one of bad files alone, and one that val lacks."""
    root = make_folder({"cat": 3, "dog": 1}, splits=("train",))
    make_folder({"cat": 1}, splits=("val",), seed=1)
    (root / "train/owl").mkdir()
    (root / "train/owl/0.jpg").write_bytes(b"")
    found = said(scan_source(root))
    assert found["single_image"] == "1 class with only one image to train on: 'dog'."
    assert found["class_without_images"].endswith("'owl'.")
    assert found["not_in_val"].endswith("'dog'.")


@pytest.mark.parametrize("other", ["Cat", "cat ", " cat", "CAT", "cat\u200b", "\uff43at", "c at"])
def test_classes_that_look_alike_are_said(make_folder, other: str) -> None:
    """Case, spaces, invisible characters and width tell no reader two classes apart."""
    assert "'cat'" in said(scan_source(make_folder(("cat", other))))["alike_classes"]


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        *(("1", "1.0", True), ("1", "01", True), ("1", "+1.", True), ("0", "0.0", True), ("2.5", "2.50", True)),
        *(("-1", "-1.0", True), ("1", "-1", False), ("1", "1.5", False), ("10", "1", False), ("1.0", "1.0.0", False)),
        (f"1{'0' * 40}1", f"1{'0' * 40}2", False),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_numbers_written_in_two_ways_are_said(make_folder, one: str, other: str, alike: bool, suffix: str) -> None:
    """They stay two classes, as typed; whoever mixed them learns of it."""
    root = make_folder(num_images=1)
    table = pa.table({"path": ["cat/0.jpg", "dog/0.jpg"], "label": [one, other]})
    if suffix == "csv":
        csv.write_csv(table, root / "list.csv")
    else:
        pq.write_table(table, root / "list.parquet")
    index = scan_source(root / f"list.{suffix}")
    assert index.classes == tuple(sorted((one, other)))
    assert ("alike_classes" in said(index)) == alike


def test_columns_of_numbers_have_one_spelling(make_folder) -> None:
    """Whole numbers, and the same as floats with a gap, as pandas writes them, are the same classes."""
    root = make_folder(num_images=1)
    for labels in ([1, 2], [1.0, 2.0]):
        pq.write_table(pa.table({"path": ["cat/0.jpg", "dog/0.jpg"], "label": labels}), root / "list.parquet")
        assert scan_source(root / "list.parquet").classes == ("1", "2")


def test_a_picture_in_two_splits_or_classes_is_said(make_folder) -> None:
    """Equal bytes under other names are found, in whatever folder, and each meaning has its remark."""
    root = make_folder(splits=("train", "val"), num_images=2)
    shutil.copy(root / "train/cat/0.jpg", root / "val/cat/copy.jpg")
    shutil.copy(root / "train/cat/1.jpg", root / "train/dog/copy.jpg")
    shutil.copy(root / "val/dog/1.jpg", root / "val/dog/copy.jpg")
    found = {remark.kind: remark for remark in find_remarks(scan_source(root))}
    assert found["in_two_splits"].names == ("train/cat/0.jpg = val/cat/copy.jpg",)
    assert found["two_labels"].names == ("train/cat/1.jpg (cat) = train/dog/copy.jpg (dog)",)
    assert found["copies"].names == ("val/dog/1.jpg = val/dog/copy.jpg",)
    assert found["in_two_splits"].important
    assert not found["copies"].important


def test_links_to_one_picture_are_copies(make_folder) -> None:
    """Symbolic and hard links are the same picture twice."""
    root = make_folder(num_images=1)
    (root / "cat/soft.jpg").symlink_to("0.jpg")
    os.link(root / "dog/0.jpg", root / "dog/hard.jpg")
    assert find_copies(scan_source(root)).groups == ([0, 1], [2, 3])


def test_copies_are_equal_in_every_byte(tmp_path: Path, rng: np.random.Generator) -> None:
    """Long files of one length and shape that differ in a single byte, wherever it is, are no copies."""
    pixels = rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)
    for name, at in (("a/0", None), ("a/1", (0, 0, 0)), ("b/2", (150, 17, 1)), ("b/3", (199, 299, 2)), ("b/4", None)):
        changed = pixels.copy()
        if at is not None:
            changed[at] ^= 1
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(changed).save(tmp_path / f"{name}.ppm")
    index = scan_source(tmp_path)
    assert find_copies(index).groups == ([0, 4],)
    assert not find_copies(index).sampled


def test_beyond_the_bound_samples_decide_and_that_is_said(tmp_path: Path, rng: np.random.Generator) -> None:
    """Nothing is read whole where that would cost more than allowed; the remark says so."""
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        Image.fromarray(np.zeros((200, 300, 3), np.uint8)).save(tmp_path / label / "0.ppm")
    index = scan_source(tmp_path)
    copies = find_copies(index, most_bytes=1000)
    assert copies.groups == ([0, 1],)
    assert copies.sampled


def test_files_that_are_not_there_have_no_copies(make_folder) -> None:
    """Files that went, became pipes, or never were (a list of shapes) are no error."""
    root = make_folder(num_images=1)
    for i in range(3):
        shutil.copy(root / "cat/0.jpg", root / f"cat/{i + 1}.jpg")
    index = scan_source(root)
    (root / "cat/1.jpg").unlink()
    (root / "cat/2.jpg").unlink()
    os.mkfifo(root / "cat/2.jpg")
    assert find_copies(index).groups == ([0, 3],)
    assert find_copies(replace(index, root="")).groups == ()
    assert find_copies(index.take([])).groups == ()


def test_remarks_survive_the_file(make_folder, tmp_path: Path) -> None:
    """An index that is written and read says what the folder said."""
    root = make_folder(num_images=2)
    (root / "owl").mkdir()
    index = scan_source(root)
    index.write(tmp_path / "index.parquet")
    assert scan_source(tmp_path / "index.parquet").notes == index.notes
    assert find_remarks(ShapeIndex.read(tmp_path / "index.parquet")) == find_remarks(index)
