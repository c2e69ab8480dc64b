"""Labels and numbers of a source become targets, and what the task cannot learn from is refused in one sentence."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.errors import ConfigError, SourceError
from unsquare.index import ShapeIndex, class_counts, find_remarks, scan_source
from unsquare.index.holdout import with_validation
from unsquare.index.table import METADATA_KEY
from unsquare.index.targets import TaskConfig, with_task
from unsquare.index.trainable import check_targets, check_trainable
from unsquare.parquet import read_table

MULTILABEL, REGRESSION = TaskConfig(task="multilabel"), TaskConfig(task="regression")


@pytest.fixture
def manifest(make_folder):
    """A function that writes a manifest of small pictures, a row for each, and returns its path."""

    def write(names: list[str], *rows: list[str]) -> Path:
        root = make_folder(("x",), num_images=len(rows))
        with (root / "list.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["path", *names], *([f"x/{at}.jpg", *row] for at, row in enumerate(rows))])
        return root / "list.csv"

    return write


def said(index: ShapeIndex) -> dict[str, str]:
    """The sentence of each kind of remark."""
    return {remark.kind: remark.text for remark in find_remarks(index)}


def test_a_cell_may_hold_several_labels(manifest):
    """They are split at the separator; the separator alone is none of them; spaces and repeats do not count."""
    index = scan_source(manifest(["label"], ["cat;dog"], ["dog; dog ;"], [";"], ["owl"]), task=MULTILABEL)
    assert (index.task, index.classes) == ("multilabel", ("cat", "dog", "owl"))
    assert index.targets.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert [index.label_text(row) for row in range(4)] == ["cat, dog", "dog", "none of the labels", "owl"]
    assert class_counts(index) == {"cat": {"": 1}, "dog": {"": 2}, "owl": {"": 1}}


LABEL_SETS = st.lists(st.sets(st.sampled_from(["a", "b b", "\u00e9", "4"])), min_size=2, max_size=5)


@given(sets=LABEL_SETS, separator=st.sampled_from([";", "|", " and "]))
def test_columns_and_cells_say_the_same(tmp_path_factory, sets, separator):
    """Several columns of 0 and 1 give the targets that the same labels in one column give."""
    path = tmp_path_factory.mktemp("lists") / "list.csv"
    names = sorted(set().union(*sets))
    if not names:
        return
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "width", "height", "tags", *names])
        for at, labels in enumerate(sets):
            cell = separator.join(sorted(labels)) or separator
            writer.writerow([f"{at}.jpg", 9, 9, cell, *(int(name in labels) for name in names)])
    cells = scan_source(path, task=TaskConfig(task="multilabel", label_columns=("Tags",), label_separator=separator))
    expected = [[float(name in labels) for name in names] for labels in sets]
    assert (cells.classes, cells.targets.tolist()) == (tuple(names), expected)
    if len(names) > 1:
        columns = TaskConfig(task="multilabel", label_columns=tuple(names[::-1]), label_separator="\x1f")
        found = scan_source(path, task=columns)
        assert (found.classes, found.targets[:, ::-1].tolist()) == (tuple(names[::-1]), expected)


def test_values_are_numbers(manifest):
    """A regression takes the number of a column, named after it; a class folder may be one, too."""
    path = manifest(["label", "score"], ["a", "1.5"], ["b", "-2e3"], ["a", "0.1"])
    index = scan_source(path, task=TaskConfig(task="regression", label_columns=("score",)))
    assert (index.classes, index.targets.tolist()) == (("score",), [[1.5], [-2000.0], [0.1]])
    assert class_counts(index) == {}
    assert "unused_column" in said(index)


def test_folders_name_numbers_and_labels(make_folder):
    """A source of class folders needs no manifest for any task."""
    index = scan_source(make_folder(("3", "10.5"), num_images=2), task=REGRESSION)
    assert sorted(index.targets[:, 0].tolist()) == [3, 3, 10.5, 10.5]
    index = scan_source(make_folder(("cat;dog", "dog"), num_images=1, name="others"), task=MULTILABEL)
    assert index.targets.tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("names", "rows", "task", "words"),
    [
        (["label"], [["1"], ["n/a"], ["n/a"]], REGRESSION, r"2 of 3 have none, first 'x/1.jpg' with 'n/a'; fix"),
        (["label"], [["1"], ["inf"]], REGRESSION, r"first 'x/1.jpg' with 'inf'"),
        (["label"], [["1,5"], ["2"]], REGRESSION, r"with '1,5'; write 1.5, not 1,5; fix"),
        (["a", "b"], [["1", "0"], ["1", "2"]], ("a", "b"), r"Row 2 of '.*' has '2' in the label column 'b'; .* 0 or 1"),
        (["a", "b"], [["1", "0"], ["", "0"]], ("a", "b"), r"Row 2 of '.*' has '' in the label column 'a'"),
        (["cat", "b"], [["1", "0"]], ("cats", "b"), r"no label column 'cats'; did you mean 'cat'\?"),
        (["a", "b"], [["1", "0"]], ("a", "zzzzz"), r"no label column 'zzzzz'; its columns are: path, a, b"),
        (["label"], [[";"], [";"]], MULTILABEL, r"No image has any label"),
    ],
)
def test_labels_that_do_not_fit_are_named(manifest, names, rows, task, words):
    """One sentence says the rule, the first place, and what to do."""
    if isinstance(task, tuple):
        task = TaskConfig(task="multilabel", label_columns=task)
    with pytest.raises(SourceError, match=words):
        scan_source(manifest(names, *rows), task=task)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"label_columns": ("a", "b")}, "Several label_columns are for the task multilabel, but the task is classif"),
        ({"task": "multilabel", "label_columns": ("a", "A ")}, "must be different names"),
        ({"task": "multilabel", "label_columns": ("\u00e9", "e\u0301")}, "must be different names"),
        ({"task": "multilabel", "label_columns": ("c", "a;b")}, "may contain the separator ';', but 'a;b' does"),
        ({"label_separator": ""}, "must not be empty"),
    ],
)
def test_settings_that_do_not_fit_are_named(values, words):
    """Before any file is read."""
    with pytest.raises(ConfigError, match=words):
        TaskConfig(**values)


def test_columns_are_those_of_a_manifest(make_folder):
    """A folder has none."""
    with pytest.raises(SourceError, match=r"label_columns names columns of a manifest, but the source '.*' is none"):
        scan_source(make_folder(), task=TaskConfig(label_columns=("a",)))


def test_unlabeled_images_are_not_without_labels(manifest):
    """A blank cell is not known: training refuses it, and takes no image for one that has none of the labels."""
    index = scan_source(manifest(["label"], ["a;b"], [""], ["b"]), task=MULTILABEL)
    assert index.labeled.tolist() == [True, False, True]
    with pytest.raises(SourceError, match=r"1 of 3 images have no label, first 'x/1.jpg'"):
        check_trainable(index, skip_bad=False)


def test_an_index_keeps_its_targets(manifest, tmp_path):
    """Written and read, with an unlabeled image and a problem among the rows; parts have the targets of their rows."""
    path = manifest(["label", "split"], ["a;b", "train"], ["b", "val"], ["", "train"], ["a", "val"])
    (path.parent / "x/3.jpg").write_bytes(b"")
    index = scan_source(path, task=MULTILABEL)
    index.write(tmp_path / "index.parquet")
    again = ShapeIndex.read(tmp_path / "index.parquet")
    np.testing.assert_array_equal(again.targets, index.targets)
    assert (again.task, again.classes, again.problems) == (index.task, index.classes, index.problems)
    assert again.of_split("val").targets.tolist() == [[0, 1]]
    assert again.take([1, 0]).targets.tolist() == [[0, 1], [1, 1]]
    assert scan_source(tmp_path / "index.parquet").task == "multilabel"


def test_an_index_of_texts_serves_every_task(make_folder, tmp_path):
    """It is read as the task says when it is used; one with targets is for its own task alone."""
    scan_source(make_folder(("1", "2"))).write(tmp_path / "index.parquet")
    index = scan_source(tmp_path / "index.parquet", task=REGRESSION)
    assert sorted(set(index.targets[:, 0].tolist())) == [1, 2]
    index.write(tmp_path / "values.parquet")
    with pytest.raises(SourceError, match="made for the task regression, but the task is classification; give --task"):
        scan_source(tmp_path / "values.parquet", task=TaskConfig())


def test_an_index_of_classes_is_written_as_before(make_folder, tmp_path):
    """Runs of earlier releases find the bytes they know."""
    scan_source(make_folder()).write(tmp_path / "index.parquet")
    table = read_table(tmp_path / "index.parquet", {})
    about = table.schema.metadata[METADATA_KEY].decode()
    assert '"version": 3' in about
    assert "task" not in about


@pytest.mark.parametrize("damage", [[1.0], [0.5, 1.0], None])
def test_damaged_targets_are_refused(manifest, tmp_path, damage):
    """Too few, not 0 or 1, or missing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = scan_source(manifest(["label"], ["a;b"], ["b"]), task=MULTILABEL)
    index.write(tmp_path / "index.parquet")
    table = pq.read_table(tmp_path / "index.parquet")
    at = table.schema.get_field_index("targets")
    changed = table.set_column(at, "targets", pa.array([damage, [0.0, 1.0]], pa.list_(pa.float64())))
    pq.write_table(changed, tmp_path / "index.parquet")
    with pytest.raises(SourceError, match="cannot be read: its column 'targets'"):
        ShapeIndex.read(tmp_path / "index.parquet")


def test_labels_that_training_lacks_are_reported(manifest):
    """A label that only val has, and a column without a single image, in one sentence each."""
    rows = (["train", "1", "0", "0"], ["val", "1", "1", "0"])
    path = manifest(["split", "a", "b", "c"], *rows)
    found = said(scan_source(path, task=TaskConfig(task="multilabel", label_columns=("a", "b", "c"))))
    assert found["only_in_val"] == "1 label in val but not in train, so never learned: 'b'."
    assert found["class_without_images"] == "1 label without any readable image: 'c'."


def test_another_separator_is_suggested(manifest):
    """Where no image has two labels, but their names hold what usually separates them."""
    found = said(scan_source(manifest(["label"], ["a|b"], ["b"]), task=MULTILABEL))
    assert found["single_labels"].endswith("if '|' separates them, give --label-separator '|'.")
    assert "single_labels" not in said(with_task(scan_source(manifest(["label"], ["a;b"], ["b"])), MULTILABEL))


def test_copies_with_other_labels_are_reported(manifest):
    """As copies in two classes are."""
    path = manifest(["label"], ["a;b"], ["b"], ["b;a"])
    for copy in ("x/1.jpg", "x/2.jpg"):
        (path.parent / copy).write_bytes((path.parent / "x/0.jpg").read_bytes())
    found = said(scan_source(path, task=MULTILABEL))
    assert "x/0.jpg (a, b) = x/1.jpg (b)" in found["two_labels"]


def test_values_are_held_out_from_all_images_alike(make_folder):
    """The part asked for, however many values there are, and copies stay together."""
    index = scan_source(make_folder(tuple(map(str, range(10))), num_images=2), task=REGRESSION)
    held = with_validation(index, 0.2, 0)
    assert (held.splits == "val").sum() == 4
    copies = with_validation(index, 0.2, 0, [list(range(4))])
    assert len(set(copies.splits[:4])) == 1


def test_images_that_do_not_differ_are_refused(manifest):
    """There is nothing to learn, or nothing to judge by."""
    index = scan_source(manifest(["label"], ["3"], ["3.0"]), task=REGRESSION)
    with pytest.raises(SourceError, match=r"need.* differ, but all 2 of train have the same value: 3"):
        check_targets(with_validation(index, 0, 0))
    path = manifest(["label", "split"], ["a;b", "train"], ["b", "train"], [";", "val"])
    with pytest.raises(SourceError, match="judged on val, but none of its images has any label"):
        check_targets(scan_source(path, task=MULTILABEL))
