"""The index as arrays and as a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.errors import ConfigError, SourceError
from unsquare.index.table import METADATA_KEY, Problem, ShapeIndex, is_index
from unsquare.index.text import strings

COLUMNS = ("keys", "sizes", "labels", "splits", "groups", "num_bytes", "modified_ns")


def make_index(names: list[str], problems: tuple[Problem, ...] = ()) -> ShapeIndex:
    """An index of these names in which every column varies."""
    names = sorted(names)
    count = len(names)
    return ShapeIndex(
        root="/pictures",
        classes=("cat", "dog"),
        keys=strings(names),
        sizes=np.arange(2, 2 + 2 * count, dtype=np.int64).reshape(-1, 2),
        labels=(np.arange(count, dtype=np.int32) % 3) - 1,
        splits=strings([("train", "val", "test", "")[i % 4] for i in range(count)]),
        num_bytes=np.arange(count, dtype=np.int64) * 1000,
        modified_ns=np.arange(count, dtype=np.int64) + 1_700_000_000_123_456_789,
        problems=problems,
    )


def assert_same(one: ShapeIndex, other: ShapeIndex) -> None:
    """Every column, its type included, and all else are equal."""
    for column in COLUMNS:
        left, right = getattr(one, column), getattr(other, column)
        assert left.dtype == right.dtype, column
        np.testing.assert_array_equal(left, right, err_msg=column)
    assert (one.root, one.classes, one.problems) == (other.root, other.classes, other.problems)


name_lists = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True, max_size=9)


@given(names=name_lists)
def test_an_index_comes_back_from_its_file_unchanged(names: list[str], tmp_path_factory) -> None:
    """Writing and reading keep every column, the classes, the root and the problems, whatever the names."""
    problems = tuple(Problem(key=f"{name}!", reason="is empty", label=1, split="val") for name in names[:2])
    path = tmp_path_factory.mktemp("index") / "index.parquet"
    make_index(names, problems).write(path)
    assert is_index(path)
    assert_same(ShapeIndex.read(path), make_index(names, problems))


def test_an_index_without_groups_has_no_column_of_them(tmp_path: Path) -> None:
    """Its file is that of releases which knew of none, and theirs are read as images of no group."""
    path = tmp_path / "index.parquet"
    make_index(["a", "b"]).write(path)
    assert "group" not in pq.read_schema(path).names
    assert ShapeIndex.read(path).groups.tolist() == ["", ""]
    grouped = replace(make_index(["a", "b"], (Problem(key="c", reason="is empty"),)), groups=strings(["p", ""]))
    grouped.write(path)
    assert_same(ShapeIndex.read(path), grouped)
    with pytest.raises(ConfigError, match=r"groups of an index must be an array of shape \(2,\)"):
        replace(make_index(["a", "b"]), groups=strings(["one"]))


def test_rows_are_taken_in_the_order_given() -> None:
    """`take` follows the positions (or the mask), keeps the classes and drops the problems."""
    index = make_index(["a", "b", "c"], (Problem(key="x", reason="is empty"),))
    taken = index.take([2, 0])
    assert taken.keys.tolist() == ["c", "a"]
    assert taken.sizes.tolist() == [[6, 7], [2, 3]]
    assert taken.classes == index.classes
    assert taken.problems == ()
    assert index.take(index.labels == 0).keys.tolist() == ["b"]
    assert len(index.take([])) == 0


def test_a_split_keeps_its_problems() -> None:
    """`of_split` gives the rows and the problems of that split alone."""
    problems = (Problem(key="x", reason="is empty", split="val"), Problem(key="y", reason="is empty"))
    index = make_index(["a", "b", "c"], problems).of_split("val")
    assert index.keys.tolist() == ["b"]
    assert [problem.key for problem in index.problems] == ["x"]


def test_paths_start_at_the_root_unless_absolute() -> None:
    """Relative keys are below the root; an absolute key, from a manifest, stands for itself."""
    index = make_index(["/elsewhere/a.jpg", "b/c.jpg"])
    assert index.path(0) == Path("/elsewhere/a.jpg")
    assert index.path(1) == Path("/pictures/b/c.jpg")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is replaced at once or not at all, and no partial file remains."""
    path = tmp_path / "index.parquet"
    make_index(["a"]).write(path)

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        make_index(["a", "b"]).write(path)
    monkeypatch.undo()
    assert len(ShapeIndex.read(path)) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["index.parquet"]


def test_another_version_is_refused(tmp_path: Path) -> None:
    """A file of another schema version is named as such instead of being misread."""
    path = tmp_path / "index.parquet"
    make_index(["a"]).write(path)
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[METADATA_KEY]) | {"version": 999}
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(about)}), path)
    with pytest.raises(
        SourceError, match=r"version 999, but this program reads versions 1 to 4; scan the source again"
    ):
        ShapeIndex.read(path)


def test_other_files_are_no_index(tmp_path: Path) -> None:
    """A user's Parquet, a text file and a missing file each get a sentence of their own."""
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "user.parquet")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(SourceError, match="but not an index"):
        ShapeIndex.read(tmp_path / "user.parquet")
    for name in ("text.parquet", "missing.parquet"):
        with pytest.raises(SourceError, match=f"{name}' cannot be read"):
            ShapeIndex.read(tmp_path / name)


def test_columns_of_different_length_are_a_mistake() -> None:
    """An index whose columns disagree cannot be made."""
    with pytest.raises(ConfigError, match=r"num_bytes of an index must be an array of shape \(2,\)"):
        replace(make_index(["a", "b"]), num_bytes=np.zeros(1, np.int64))
