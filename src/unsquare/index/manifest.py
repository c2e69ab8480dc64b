"""A manifest: a CSV or Parquet table that lists images with their labels, and perhaps splits and sizes.

With width and height for every row nothing is opened, so that a dataset can be planned where its files are
not. Paths come from the user and mean what they say: relative ones start at the manifest's folder, `..` and
absolute ones are followed.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from unsquare.errors import SourceError
from unsquare.index.listing import SPLIT_NAMES, Listing, sorted_listing
from unsquare.index.table import Strings, empty_strings, strings
from unsquare.shapes import Sizes

MANIFEST_SUFFIXES = (".csv", ".csv.gz", ".parquet")

_NAMES = {
    "path": ("path", "file", "image", "filename", "file_name", "image file"),
    "label": ("label", "class", "medium"),
    "split": ("split", "subset"),
    "width": ("width",),
    "height": ("height",),
    "orientation": ("orientation", "exif_orientation"),
}
"""Names of columns, in lower case, by meaning; the first that is there counts. Some are MAMe's."""
_SIDEWAYS = (5, 6, 7, 8)


def read_manifest(path: Path) -> Listing:
    """The images that a manifest lists.

    Columns: path and label, optional split, width and height (as displayed; where there is a column of EXIF
    orientations too, sizes are as stored and are turned by it). Other columns are ignored, so are blank
    labels.

    Raises:
        SourceError: the table cannot be read, lacks a column, or has a cell that makes no sense.
    """
    table = _named_columns(_read_table(path), path)
    if not table.num_rows:
        raise SourceError(f"The manifest '{path}' lists no images.")
    keys = _text(table, "path")
    if blank := _first(keys == ""):
        raise SourceError(f"Row {blank} of '{path}' has no path.")
    sizes = _sizes(table, path)
    labels = _text(table, "label") if "label" in table.column_names else empty_strings(len(keys))
    keys = strings([key.removeprefix("./") for key in keys])
    root = "" if sizes is not None and not _any_file(path.parent, keys) else str(path.parent)
    return sorted_listing(root, keys, labels, _splits(table, path), sizes)


def _read_table(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        # Every cell as text: a label 007 stays 007, and each cell is checked where its meaning is known.
        with pa.input_stream(str(path), compression="detect") as stream:
            names = _cells(stream.read(1 << 16).split(b"\n")[0].rstrip(b"\r"))
        options = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        return pa.csv.read_csv(path, convert_options=options)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise SourceError(f"The manifest '{path}' cannot be read: {error}.") from error


def _cells(line: bytes) -> list[str]:
    return next(csv.reader([line.decode("utf-8-sig")]), [])


def _named_columns(table: pa.Table, path: Path) -> pa.Table:
    """The columns that mean something to us, under our names."""
    names_here = [name.removeprefix("\ufeff").strip().lower() for name in table.column_names]
    columns = {}
    for meaning, names in _NAMES.items():
        if found := next((name for name in names if name in names_here), None):
            columns[meaning] = table.column(names_here.index(found))
    if "path" not in columns:
        raise SourceError(
            f"The manifest '{path}' needs a column 'path' (and 'label' for training), "
            f"but its columns are: {', '.join(table.column_names)}."
        )
    return pa.table(columns)


def _text(table: pa.Table, name: str) -> Strings:
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    column = pc.fill_null(_cast(column, pa.string(), name), "")
    return strings(pc.utf8_trim_whitespace(column).to_pylist())


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except pa.ArrowException as error:
        raise SourceError(
            f"The manifest's column '{name}' must hold plain text or numbers, but is of type {column.type}; write it "
            "as such, images as files and their paths in 'path'."
        ) from error


def _splits(table: pa.Table, path: Path) -> Strings:
    if "split" not in table.column_names:
        return empty_strings(table.num_rows)
    names = [name.lower() for name in _text(table, "split")]
    if row := _first(np.array([name not in SPLIT_NAMES for name in names])):
        raise SourceError(
            f"Row {row} of '{path}' has the split '{names[row - 1]}'; it must be train, val, test or blank."
        )
    return strings([SPLIT_NAMES[name] for name in names])


def _sizes(table: pa.Table, path: Path) -> Sizes | None:
    if not {"width", "height"} <= set(table.column_names):
        return None
    sizes = np.stack([_numbers(table, "height", path), _numbers(table, "width", path)], axis=-1)
    if "orientation" in table.column_names:
        sideways = np.array([value.strip() in map(str, _SIDEWAYS) for value in _text(table, "orientation")])
        sizes[sideways] = sizes[sideways, ::-1]
    return sizes


def _numbers(table: pa.Table, name: str, path: Path) -> Any:
    column = table[name]
    if pa.types.is_string(column.type):
        # "3144.0" is a whole number too.
        numbers = np.array([_number(text) for text in column.to_pylist()])
    else:
        numbers = pc.fill_null(_cast(column, pa.float64(), name), np.nan).to_numpy()
    if row := _first(~((numbers >= 1) & (numbers < 2**31) & (numbers == np.floor(numbers)))):
        raise SourceError(
            f"Row {row} of '{path}' has the {name} '{column[row - 1]}', which is not a whole number above 0; "
            "mend it, or leave the columns out to have the files measured."
        )
    return numbers.astype(np.int64)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _first(where: Any) -> int:
    """The row, counted from 1 below the header, of the first True; 0 where there is none."""
    found = np.flatnonzero(where)
    return int(found[0]) + 1 if found.size else 0


def _any_file(folder: Path, keys: Strings) -> bool:
    return any(Path(folder, key).exists() for key in keys[:8])
