"""Parquet files of other columns, or of values that make no sense, are refused by name."""

import math
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unsquare.errors import RunError
from unsquare.runs.tables import (
    EVALUATION,
    LABELS_EVALUATION,
    VALUES_EVALUATION,
    read_evaluation,
    read_index,
    read_memory,
    write_memory,
)

SAMPLES = {
    "time_s": [0.1, 0.2],
    "resident_bytes": [5, 6],
    "allocated_bytes": [None, 4],
    "reserved_bytes": [None, None],
    "step": [0, 1],
    "images": [0, 2],
    "height": [0, 30],
    "width": [0, 40],
    "phase": ["", "data"],
}
ROW = {"key": "a.jpg", "label": "a", "predicted": "b", "probability": 0.5, "height": 30, "width": 40}


def test_samples_come_back(tmp_path):
    """As they were written."""
    write_memory(tmp_path / "memory.parquet", SAMPLES)
    assert read_memory(tmp_path / "memory.parquet").to_pydict() == SAMPLES


def test_a_flipped_bit_in_the_values_is_found(tmp_path):
    """Pages have sums: no other value is read in place of the one written."""
    path = tmp_path / "memory.parquet"
    write_memory(path, {name: values * 500 for name, values in SAMPLES.items()})
    content = path.read_bytes()
    changed = 0
    for at in range(4, len(content) - 2000, 37):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        try:
            changed += read_memory(path).to_pydict() != {name: values * 500 for name, values in SAMPLES.items()}
        except RunError:
            continue
    assert changed == 0


@pytest.mark.parametrize(
    "change",
    [
        {"height": 0},
        {"width": 10**12},
        {"probability": math.nan},
        {"probability": 7.0},
        {"predicted": None},
        {"key": 3},
        {"height": "x"},
    ],
)
def test_values_that_make_no_sense_are_refused(tmp_path, change):
    """Types, gaps and ranges are checked for each column, and the column is named."""
    pq.write_table(pa.Table.from_pylist([ROW | change]), tmp_path / "evaluation.parquet")
    with pytest.raises(RunError, match=rf"evaluation\.parquet cannot be read \(its column '{next(iter(change))}'"):
        read_evaluation(tmp_path / "evaluation.parquet")


ROWS = {
    "labels": {"key": "a.jpg", "labels": ["a"], "predicted": [], "probabilities": [0.5, 0.1], "height": 3, "width": 4},
    "values": {"key": "a.jpg", "value": -3.5, "predicted": 2.0, "height": 3, "width": 4},
}
SCHEMAS = {"labels": LABELS_EVALUATION, "values": VALUES_EVALUATION}


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("labels", {}),
        ("labels", {"probabilities": [0.5, 1.5]}),
        ("labels", {"probabilities": [0.5, math.nan]}),
        ("labels", {"predicted": None}),
        ("values", {}),
        ("values", {"value": math.nan}),
        ("values", {"predicted": math.inf}),
        ("values", {"width": 0}),
    ],
)
def test_evaluations_of_other_tasks_have_columns_of_their_own(tmp_path, kind, change):
    """They come back as written, and what makes no sense is refused with its column."""
    path = tmp_path / "evaluation.parquet"
    pq.write_table(pa.Table.from_pylist([ROWS[kind] | change], schema=SCHEMAS[kind]), path)
    if not change:
        assert read_evaluation(path).to_pylist() == [ROWS[kind]]
        return
    with pytest.raises(RunError, match=f"its column '{next(iter(change))}'"):
        read_evaluation(path)


def test_other_tables_are_refused(tmp_path):
    """A table without the columns, or with one twice, text that is not UTF-8, a pipe."""
    path = tmp_path / "evaluation.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(RunError, match="lacks the column 'key'"):
        read_evaluation(path)
    with pytest.raises(RunError, match="not an index"):
        read_index(path)
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    table = pa.table([bad if name == "key" else pa.array([ROW[name]]) for name in EVALUATION.names], EVALUATION)
    pq.write_table(table, path)
    with pytest.raises(RunError, match="UTF"):
        read_evaluation(path)
    path.unlink()
    os.mkfifo(path)
    for read in (read_evaluation, read_index, read_memory):
        with pytest.raises(RunError, match="not a regular file"):
            read(path)
