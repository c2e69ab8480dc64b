"""Parquet files with the columns they should have: written with a sum over each page, checked once when read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from unsquare.files import replacing, require_regular


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table; readers see the old file or the new one, never a part."""
    # As an open file: the library takes no path that is not UTF-8.
    with replacing(path) as partial, partial.open("wb") as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def read_table(
    path: Path,
    columns: Mapping[str, pa.DataType],
    nullable: frozenset[str] = frozenset(),
    optional: Mapping[str, pa.DataType] | None = None,
) -> pa.Table:
    """The table in a file, its columns of these types; further columns are left out.

    Args:
        path: the file.
        columns: names and types.
        nullable: the columns that may have gaps.
        optional: names and types of columns that may be missing.

    Raises:
        ValueError: it is damaged, or its columns are others; the message is the reason.
    """
    try:
        require_regular(path)
        # As an open file: from a path, the library also makes a column of each folder called name=value.
        with path.open("rb") as file:
            table = pq.read_table(file, page_checksum_verification=True)
        table.validate(full=True)  # texts that are not UTF-8 among it
    except (OSError, pa.ArrowException, ValueError) as error:
        said = str(error).strip() or type(error).__name__
        raise ValueError(said.splitlines()[0].rstrip(".")) from error
    columns = {**columns, **{name: kind for name, kind in (optional or {}).items() if name in table.column_names}}
    if lacking := [name for name in columns if name not in table.column_names]:
        raise ValueError(f"it lacks the column {lacking[0]!r}")
    if len(set(table.column_names)) < len(table.column_names):
        raise ValueError("it has a column twice")
    for name, kind in columns.items():
        if table[name].type != kind:
            raise ValueError(f"its column {name!r} is of {table[name].type}, not {kind}")
        if name not in nullable and table[name].null_count:
            raise ValueError(f"its column {name!r} has gaps")
    return table.select(list(columns)).replace_schema_metadata(table.schema.metadata)


def column_names(path: Path) -> list[str]:
    """The names of the columns in a file.

    Raises:
        ValueError: it is damaged; the message is the reason.
    """
    try:
        require_regular(path)
        with path.open("rb") as file:
            return list(pq.read_schema(file).names)
    except (OSError, pa.ArrowException, ValueError) as error:
        said = str(error).strip() or type(error).__name__
        raise ValueError(said.splitlines()[0].rstrip(".")) from error
