"""The Parquet files of a run: its memory trace, and its last evaluation, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unsquare.errors import SourceError
from unsquare.index.table import ShapeIndex, Task
from unsquare.parquet import column_names, read_table, write_table
from unsquare.runs.reading import NEW_RUN, DamagedFileError

MEMORY = pa.schema(
    [
        ("time_s", pa.float64()),
        ("resident_bytes", pa.int64()),
        ("allocated_bytes", pa.int64()),  # blocks in use, of the device or, on a CPU, of the C library
        ("reserved_bytes", pa.int64()),  # what the device's allocator holds; null on a CPU
        ("step", pa.int64()),
        ("images", pa.int64()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("phase", pa.string()),
    ]
)
EVALUATION = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.string()),
        ("predicted", pa.string()),
        ("probability", pa.float64()),
        ("height", pa.int64()),
        ("width", pa.int64()),
    ]
)
LABELS_EVALUATION = pa.schema(
    [
        ("key", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("predicted", pa.list_(pa.string())),
        ("probabilities", pa.list_(pa.float64())),  # of all labels, in the order of the index's classes
        ("height", pa.int64()),
        ("width", pa.int64()),
    ]
)
VALUES_EVALUATION = pa.schema(
    [
        ("key", pa.string()),
        ("value", pa.float64()),
        ("predicted", pa.float64()),
        ("height", pa.int64()),
        ("width", pa.int64()),
    ]
)
EVALUATIONS: dict[Task, pa.Schema] = {
    "classification": EVALUATION,
    "multilabel": LABELS_EVALUATION,
    "regression": VALUES_EVALUATION,
}
"""The last evaluation, image by image, by task."""
_MAY_LACK = frozenset(MEMORY.names) - {"time_s"}
_LARGEST = {"height": 1 << 30, "width": 1 << 30, "probability": 1.0, "probabilities": 1.0}
"""Largest values of columns; other columns are bounded by what a page can hold."""
_SIGNED = frozenset({"value", "predicted"})
"""Columns whose numbers may be below zero."""


def read_memory(path: Path, remedy: str = NEW_RUN) -> pa.Table:
    """The samples of `memory.parquet`.

    Raises:
        DamagedFileError: it is missing or damaged.
    """
    return _checked(path, MEMORY, remedy, _MAY_LACK, least=0)


def write_memory(path: Path, samples: Mapping[str, Sequence[Any]]) -> None:
    """Write samples, given in columns, atomically; raises OSError where they cannot be written."""
    write_table(path, pa.table(dict(samples), schema=MEMORY))


def read_evaluation(path: Path, remedy: str = NEW_RUN) -> pa.Table:
    """The rows of `evaluation.parquet`, one per image, by the schema of their task; raises like `read_memory`."""
    try:
        names = set(column_names(path))
    except ValueError as error:
        raise DamagedFileError(path, str(error), remedy) from error
    schema = next((each for each in EVALUATIONS.values() if names >= set(each.names)), EVALUATION)
    return _checked(path, schema, remedy, frozenset({"label"}), least=1)


def read_index(path: Path, remedy: str = NEW_RUN) -> ShapeIndex:
    """The index of a run, whose images may lack labels; raises like `read_memory`."""
    try:
        return ShapeIndex.read(path)
    except SourceError as error:
        raise DamagedFileError(path, str(error).rstrip("."), remedy) from error


def _checked(path: Path, schema: pa.Schema, remedy: str, gaps: frozenset[str], least: int) -> pa.Table:
    try:
        table = read_table(path, dict(zip(schema.names, schema.types)), gaps)
        for field in schema:
            column = pc.list_flatten(table[field.name]) if pa.types.is_list(field.type) else table[field.name]
            if not pa.types.is_string(column.type):
                most = _LARGEST.get(field.name, 1e30 if field.name in _SIGNED else 1e20)
                low = -most if field.name in _SIGNED else least if field.name in ("height", "width") else 0
                _require_within(field.name, column, low, most)
    except ValueError as error:
        raise DamagedFileError(path, str(error), remedy) from error
    return table


def _require_within(name: str, column: pa.ChunkedArray, least: float, most: float) -> None:
    values = pc.drop_null(column).to_numpy()
    # Written so that NaN is out of range, too.
    if len(values) and not bool(np.all((values >= least) & (values <= most))):
        raise ValueError(f"its column {name!r} has values that are not between {least:g} and {most:g}")
