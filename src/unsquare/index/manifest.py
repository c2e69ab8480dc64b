"""Lists the images in a manifest: a CSV or Parquet table with paths, labels, and perhaps splits and sizes.

With width and height for every row no file is opened, so that a dataset can be planned on another machine. Paths are
used as given (`paths`): relative ones start at the manifest's folder, `..` and absolute ones are followed.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unsquare.errors import SourceError
from unsquare.index.csv_table import read_csv
from unsquare.index.listing import SPLIT_NAMES, Listing, class_name, sorted_listing
from unsquare.index.parquet_table import read_parquet
from unsquare.index.paths import Paths, any_there, clean_path, find_paths
from unsquare.index.remarks import counted, remark
from unsquare.index.table import LONGEST_SIDE, Remark
from unsquare.index.targets import TaskConfig, joined_columns
from unsquare.index.text import Strings, empty_strings, shown, strings
from unsquare.index.walk import looks_like_image
from unsquare.shapes import Sizes

MANIFEST_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")

_NAMES = {
    "path": ("path", "file", "image", "filename", "file_name", "image file"),
    "label": ("label", "class", "medium"),
    "split": ("split", "subset"),
    "group": (
        *("group", "group_id", "patient", "patient_id", "subject", "subject_id"),
        *("object", "object_id", "sender", "sender_id"),
    ),
    "width": ("width",),
    "height": ("height",),
    "orientation": ("orientation", "exif_orientation"),
}
"""Names of columns, in lower case, by meaning; the first one present is used. Some are MAMe's."""
_ALL_NAMES = tuple(name for names in _NAMES.values() for name in names)
_ROW_NUMBERS = re.compile(r"|unnamed: \d+|__index_level_\d+__")
"""Names, in lower case, of index columns that pandas adds."""
_SIDEWAYS = (5, 6, 7, 8)
_NUM_SAMPLED = 8


@dataclass(frozen=True)
class _Columns:
    """Which columns of a table are used."""

    used: dict[str, int]
    """Position by meaning."""
    names: list[str]
    """All names, as in the table."""

    @property
    def unused(self) -> list[str]:
        """Names of columns that are not used, except for those that pandas adds."""
        others = [name for position, name in enumerate(self.names) if position not in self.used.values()]
        return [name for name in others if not _ROW_NUMBERS.fullmatch(_plain(name))]


def read_manifest(path: Path, task: TaskConfig | None = None) -> Listing:
    """The images that a manifest lists; `task` may name other columns of labels.

    Columns: path and label, optionally split, group, width and height (as displayed; if there is a column of EXIF
    orientations, too, sizes are as stored and are turned by it). Other columns are named in the notes; blank labels are
    no labels.

    Raises:
        SourceError: the table cannot be read, lacks a column, or has an invalid cell.
    """
    task = task or TaskConfig()
    table, columns = _read_table(path, task.label_columns)
    if not table.num_rows:
        raise SourceError(f"The manifest '{shown(str(path))}' lists no images.")
    written = _text(table, "path").tolist()
    if blank := _first(np.array(written, dtype=object) == ""):
        raise SourceError(f"Row {blank} of '{shown(str(path))}' has no path.")
    sizes = _sizes(table, path)
    labels = _labels(table, task, path)
    root = str(path.parent)
    if sizes is not None and not any_there(path.parent, written[:_NUM_SAMPLED]):
        paths, root = Paths([clean_path(root, name) for name in written]), ""
    else:
        paths = find_paths(path.parent, written)
    _check_once(paths.keys, written, labels, path)
    groups = _text(table, "group") if "group" in table.column_names else None
    notes = [*_on_columns(columns), *_on_groups(columns, groups), *_on_paths(path, paths, trusted=sizes is not None)]
    return sorted_listing(root, strings(paths.keys), labels, _splits(table, path), sizes, notes, groups)


def _labels(table: pa.Table, task: TaskConfig, path: Path) -> Strings:
    """The label text of each row."""
    if len(task.label_columns) > 1:
        cells = {name.strip(): _text(table, _meaning(name)) for name in task.label_columns}
        return joined_columns(cells, task.label_separator, f"'{shown(str(path))}'")
    if "label" not in table.column_names:
        return empty_strings(table.num_rows)
    return strings([class_name(label) for label in _text(table, "label")])


def _meaning(name: str) -> str:
    """The meaning of one of several label columns, under which it is used."""
    return f"label {_plain(name)}"


def _read_table(path: Path, labels: Sequence[str]) -> tuple[pa.Table, _Columns]:
    """The columns that are used, under our names, and the names of all columns."""

    def pick(names: list[str]) -> list[int]:
        return list(_columns(names, path, labels).used.values())

    if path.suffix.lower() == ".parquet":
        names, table = read_parquet(path, pick)
    else:
        names, table = read_csv(path, lambda names: bool(set(map(_plain, names)) & set(_NAMES["path"])), pick)
    columns = _columns(names, path, labels)
    return table.rename_columns(list(columns.used)), columns


def _plain(name: str) -> str:
    return name.removeprefix("\ufeff").strip().lower()


def _columns(names: list[str], path: Path, labels: Sequence[str]) -> _Columns:
    here = [_plain(name) for name in names]
    used = {}
    wanted = dict(_NAMES)
    if labels:
        del wanted["label"]
        _require_columns(labels, names, path)
        wanted |= {_meaning(name) if len(labels) > 1 else "label": (_plain(name),) for name in labels}
    for meaning, accepted in wanted.items():
        if found := next((name for name in accepted if name in here), None):
            used[meaning] = here.index(found)
            _check_one([name for name, plain in zip(names, here) if plain == found], found, path)
    if "path" not in used:
        raise SourceError(_no_path(names, here, path))
    if not {"width", "height"} <= set(used):
        used = {meaning: at for meaning, at in used.items() if meaning not in ("width", "height", "orientation")}
    return _Columns(used, names)


def _require_columns(labels: Sequence[str], names: list[str], path: Path) -> None:
    """Refuse label columns that a manifest does not have."""
    here = [_plain(name) for name in names]
    if lacking := [label for label in labels if _plain(label) not in here]:
        close = difflib.get_close_matches(_plain(lacking[0]), here, n=1)
        hint = f"did you mean '{shown(close[0])}'?" if close else f"its columns are: {shown(', '.join(names))}."
        raise SourceError(f"The manifest '{shown(str(path))}' has no label column '{shown(lacking[0])}'; {hint}")


def _check_one(names: list[str], name: str, path: Path) -> None:
    if len(names) > 1:
        written = ", ".join(f"'{shown(one)}'" for one in names)
        raise SourceError(
            f"A manifest must have only one column '{name}', but '{shown(str(path))}' has {len(names)} ({written}); "
            "remove or rename all but one."
        )


def _no_path(names: list[str], here: list[str], path: Path) -> str:
    """The message for a table without paths, with the column that may have been meant."""
    if not any(here):
        return f"The manifest '{shown(str(path))}' is empty; it needs a column 'path', and 'label' for training."
    text = (
        f"The manifest '{shown(str(path))}' needs a column 'path' (and 'label' for training), "
        f"but its columns are: {shown(', '.join(names))}"
    )
    if any(looks_like_image(name) for name in here):
        return f"{text}; its first row must name the columns."
    close = next((name for name in names if _nearest(name, _NAMES["path"])), None)
    return text + (f"; rename '{shown(close)}'." if close else ".")


def _nearest(name: str, accepted: Sequence[str]) -> str:
    """The accepted name that was probably meant; "" where none is similar."""
    plain = _plain(name)
    contained = [one for one in accepted if len(one) > 3 and one in plain]
    return next(iter([*difflib.get_close_matches(plain, accepted, n=1, cutoff=0.75), *contained]), "")


def _on_columns(columns: _Columns) -> Iterator[Remark]:
    """The remark on columns that are not used."""
    if not (unused := columns.unused):
        return
    lacking = [name for meaning, names in _NAMES.items() if meaning not in columns.used for name in names]
    meant = [(name, _nearest(name, lacking)) for name in unused]
    hints = "".join(f"; is '{shown(name)}' meant as '{near}'?" for name, near in meant if near and near != _plain(name))
    read = ", ".join(columns.names[position].strip() for position in columns.used.values())
    text = f"{counted(unused, 'column')} not used: {{names}} (used: {shown(read)}){hints or '.'}"
    yield remark("unused_column", text, unused, important=True)


def _on_groups(columns: _Columns, groups: Strings | None) -> Iterator[Remark]:
    """The remark on images that stay together: a column of that name may have been meant otherwise."""
    numbers = Counter([] if groups is None else groups.tolist())
    if names := sorted(name for name, number in numbers.items() if name and number > 1):
        column = columns.names[columns.used["group"]].strip()
        text = f"{counted(names, 'group')} of several images by the column '{shown(column)}', kept in one split each."
        yield remark("groups", text, names, important=True)


def _on_paths(path: Path, paths: Paths, *, trusted: bool) -> Iterator[Remark]:
    """Remarks on how paths were found, and on possible remedies where none were."""
    if names := paths.backslashes:
        yield remark("backslashes", f"{counted(names, 'path')} read with / instead of \\: {{names}}.", names)
    if names := paths.other_forms:
        yield remark("unicode_paths", f"{counted(names, 'path')} found in another Unicode form: {{names}}.", names)
    if (names := paths.missing) and not trusted:
        few = "None of the manifest's files exist"
        if len(names) < len(paths.keys):
            few = f"{counted(names, 'file')} {'does' if len(names) == 1 else 'do'} not exist"
        text = f"{few}; relative paths start at the manifest's folder, '{shown(str(path.parent))}'"
        yield remark("missing", f"{text}{_hint(path, names[0])}: {{names}}.", names, important=True)


def _hint(path: Path, name: str) -> str:
    """The possible reason why a path does not exist."""
    slashed = name.replace("\\", "/")
    if re.match(r"[A-Za-z]:/|//\w", slashed):
        return "; absolute Windows paths do not work here"
    if os.path.lexists(slashed) if "\0" not in slashed else False:
        return f", but they exist below '{shown(os.getcwd())}': move the manifest there"
    folder = Path(path.parent, clean_path(str(path.parent), slashed)).parent
    try:
        near = next((one for one in os.listdir(folder) if one.casefold() == Path(slashed).name.casefold()), "")
    except (OSError, ValueError):
        near = ""
    return f", and case matters ('{shown(near)}' exists)" if near else ""


def _check_once(keys: list[str], written: list[str], labels: Strings, path: Path) -> None:
    """Raise `SourceError` where two rows name the same picture, in any spelling."""
    if len(set(keys)) == len(keys) and not any(key.startswith("../") for key in keys):
        return
    first: dict[str, int] = {}
    again = []
    for row, key in enumerate(keys):
        place = os.path.normpath(path.parent / key) if key.startswith("../") else key
        if first.setdefault(place, row) != row:
            again.append((first[place], row))
    if again:
        one, other = again[0]
        spelled = "" if written[one] == written[other] else f" (as '{shown(written[other])}' too)"
        both = f"with the labels '{shown(labels[one])}' and '{shown(labels[other])}'; " * (labels[one] != labels[other])
        raise SourceError(
            f"Each image may be listed only once, but {len(again)} are listed again, first "
            f"'{shown(written[one])}'{spelled} in rows {one + 1} and {other + 1} of '{shown(str(path))}', {both}keep "
            "one of the rows."
        )


def _text(table: pa.Table, name: str) -> Strings:
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = _cast(column, column.type.value_type, name)
    if pa.types.is_floating(column.type):  # pandas writes gaps like this
        column = pc.if_else(pc.is_nan(column), None, column)
    column = pc.fill_null(_cast(column, pa.string(), name), "")
    return strings(pc.utf8_trim_whitespace(column).to_pylist())


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except pa.ArrowException as error:
        raise SourceError(
            f"The manifest's column '{name}' must hold plain text or numbers, but is of type {column.type}; convert "
            "it, and store images as files with their paths in 'path'."
        ) from error


def _splits(table: pa.Table, path: Path) -> Strings:
    if "split" not in table.column_names:
        return empty_strings(table.num_rows)
    names = [name.lower() for name in _text(table, "split")]
    if row := _first(np.array([name not in SPLIT_NAMES for name in names])):
        raise SourceError(
            f"Row {row} of '{shown(str(path))}' has the split '{shown(names[row - 1])}'; it must be train, val, test "
            "or blank."
        )
    return strings([SPLIT_NAMES[name] for name in names])


def _sizes(table: pa.Table, path: Path) -> Sizes | None:
    if not {"width", "height"} <= set(table.column_names):
        return None
    sizes = np.stack([_numbers(table, "height", path), _numbers(table, "width", path)], axis=-1)
    if "orientation" in table.column_names:
        said = _text(table, "orientation")
        # pandas writes "6.0" where another row has none.
        orientations = np.array([_number(text) if text else 1 for text in said])
        if row := _first(~np.isin(orientations, range(9))):
            raise SourceError(
                f"Row {row} of '{shown(str(path))}' has the orientation '{shown(said[row - 1])}', which is not one of "
                "EXIF's numbers, 1 to 8, or blank; fix it, or leave the sizes out to have the files measured."
            )
        sideways = np.isin(orientations, _SIDEWAYS)
        sizes[sideways] = sizes[sideways, ::-1]
    return sizes


def _numbers(table: pa.Table, name: str, path: Path) -> Any:
    column = table[name]
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        # "3144.0" is a whole number, too.
        numbers = np.array([_number(text) for text in column.to_pylist()])
    else:
        numbers = pc.fill_null(_cast(column, pa.float64(), name), np.nan).to_numpy()
    if row := _first(~((numbers >= 1) & (numbers <= LONGEST_SIDE) & (numbers == np.floor(numbers)))):
        raise SourceError(
            f"Row {row} of '{shown(str(path))}' has the {name} '{shown(str(column[row - 1]))}', which is not a whole "
            f"number from 1 to {LONGEST_SIDE:,}; fix it, or leave the columns out to have the files measured."
        )
    return numbers.astype(np.int64)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _first(where: Any) -> int:
    """The row of the first True, counted from 1 below the header; 0 where there is none."""
    found = np.flatnonzero(where)
    return int(found[0]) + 1 if found.size else 0
