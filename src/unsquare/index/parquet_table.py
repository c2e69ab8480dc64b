"""Reads the wanted columns of a Parquet file, after checking how much they hold.

A file of a few bytes can stand for any number of rows, and a few long texts for any number of cells. So rows and bytes
are first counted from the file's own metadata, and texts stay dictionary-encoded until their length is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unsquare.errors import ImageError
from unsquare.index.csv_table import check_bytes, check_rows, unreadable
from unsquare.index.opening import open_regular


def read_parquet(path: Path, pick: Callable[[list[str]], Sequence[int]]) -> tuple[list[str], pa.Table]:
    """The names of all columns, and a table of some of them.

    Args:
        path: the file.
        pick: given all names, returns the positions of the columns to read. Others may hold the pictures.

    Raises:
        SourceError: the file is not such a table, or too long.
    """
    try:
        # Opened here: given a path, the library also makes a column of each folder called name=value.
        with open_regular(path) as (fp, _), pq.ParquetFile(fp) as file:
            schema, about = file.schema_arrow, file.metadata
            check_rows(about.num_rows, path)
            picked = [schema.names[position] for position in pick(schema.names)]
            parts = [file.schema.column(i).path.split(".")[0] for i in range(about.num_columns)]
            wanted = [i for i, name in enumerate(parts) if name in picked]
            groups = [about.row_group(i) for i in range(about.num_row_groups)]
            check_bytes(sum(group.column(i).total_uncompressed_size for group in groups for i in wanted), path)
        with open_regular(path) as (fp, _):
            texts = [name for name in picked if _is_text(schema.field(name).type)]
            table = pq.read_table(fp, columns=picked, read_dictionary=texts).select(picked)
        table.validate(full=True)
        check_bytes(sum(map(_num_bytes, table.columns)), path)
    except (OSError, ImageError, pa.ArrowException) as error:
        raise unreadable(path, " ".join(str(error).split())) from error
    return schema.names, table


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _num_bytes(column: pa.ChunkedArray) -> int:
    """Bytes of all cells, with each text written out; texts are read as dictionaries, if not already stored as such."""
    if not pa.types.is_dictionary(column.type) or not _is_text(column.type.value_type):
        return column.nbytes
    lengths = (pc.take(pc.binary_length(chunk.dictionary), chunk.indices) for chunk in column.chunks)
    return sum(pc.sum(each.cast(pa.int64())).as_py() or 0 for each in lengths)
