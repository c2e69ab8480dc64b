"""The index: one row per image with its shape, label and split; and the files that cannot be used.

Columns are arrays, so that planning half a million images is a few NumPy calls. On disk it is one Parquet
file, problems included (rows of height 0 with a reason), with the schema's version in the metadata; nothing
is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unsquare.errors import SourceError
from unsquare.files import replacing
from unsquare.index.choices import Choices
from unsquare.shapes import Sizes

METADATA_KEY = b"unsquare.index"
VERSION = 2
"""Raised whenever the columns, or the rules by which a header becomes a row, change. Files of an index of an older
version are all read again by the next scan; the index itself is still read. Version 2 keeps the choices."""

Strings = npt.NDArray[np.object_]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A file that was listed but cannot be used, and why."""

    key: str
    reason: str
    """A phrase that follows the file's name: "is empty"."""
    label: int = -1
    split: str = ""
    num_bytes: int = 0
    modified_ns: int = 0
    """0 where the file could not even be opened: such files are tried again by every scan."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ShapeIndex:
    """The images of one source in the order of their keys."""

    root: str
    """Folder that keys are relative to; empty where there are no files."""
    classes: tuple[str, ...]
    """Class names, sorted; labels are positions in it."""
    keys: Strings
    """(N,) unique names, relative POSIX paths, sorted by code point so that every machine has one order."""
    sizes: Sizes
    """(N, 2) height, width as displayed, the EXIF orientation applied."""
    labels: npt.NDArray[np.int32]
    """(N,) positions in `classes`, -1 where there is no label."""
    splits: Strings
    """(N,) "train", "val", "test", or "" where the source names none."""
    num_bytes: npt.NDArray[np.int64]
    """(N,) file sizes, 0 where unknown."""
    modified_ns: npt.NDArray[np.int64]
    """(N,) modification times, 0 where unknown."""
    problems: tuple[Problem, ...] = ()
    choices: Choices = field(default_factory=Choices)
    """How files are read that can be read in more than one way."""
    version: int = VERSION

    def __post_init__(self) -> None:
        columns = (self.sizes, self.labels, self.splits, self.num_bytes, self.modified_ns)
        assert all(len(column) == len(self.keys) for column in columns), "columns differ in length"

    def __len__(self) -> int:
        return len(self.keys)

    def path(self, row: int) -> Path:
        """The file of one row; keys that are absolute paths stand for themselves."""
        return Path(self.root, self.keys[row])

    def take(self, rows: npt.ArrayLike) -> ShapeIndex:
        """The rows at these positions (or under this mask) in that order, without the problems."""
        rows = np.asarray(rows)
        if rows.dtype != bool:
            rows = rows.astype(np.int64)
        return replace(
            self,
            keys=self.keys[rows],
            sizes=self.sizes[rows],
            labels=self.labels[rows],
            splits=self.splits[rows],
            num_bytes=self.num_bytes[rows],
            modified_ns=self.modified_ns[rows],
            problems=(),
        )

    def of_split(self, split: str) -> ShapeIndex:
        """The rows and problems of one split."""
        problems = tuple(problem for problem in self.problems if problem.split == split)
        return replace(self.take(self.splits == split), problems=problems)

    def write(self, path: Path) -> None:
        """Write the index as one Parquet file; readers see the old file or the new one, never a part."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            pq.write_table(_to_arrow(self), partial, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> ShapeIndex:
        """The index that `write` wrote.

        Raises:
            SourceError: the file is missing, is no index, or is of another version.
        """
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"The index '{path}' cannot be read: {error}.") from error
        return _from_arrow(table, path)


def empty_strings(length: int) -> Strings:
    """(length,) array of empty strings."""
    return np.full(length, "", dtype=object)


def strings(values: Sequence[str]) -> Strings:
    """(N,) object array of the values."""
    out = empty_strings(len(values))
    out[:] = values
    return out


def printable(key: str) -> str:
    """The key with whatever is not UTF-8 in it spelled out; a key that this changes cannot be stored."""
    return key.encode("utf-8", "backslashreplace").decode()


def is_index(path: Path) -> bool:
    """Whether this Parquet file is an index rather than a user's manifest."""
    try:
        return METADATA_KEY in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"'{path}' cannot be read as a Parquet file: {error}.") from error


def _to_arrow(index: ShapeIndex) -> pa.Table:
    problems = index.problems
    labels = np.concatenate([index.labels, np.array([p.label for p in problems], dtype=np.int32)])
    names = pa.array([*index.classes, None], pa.string())
    columns = {
        "key": pa.array([*index.keys, *(p.key for p in problems)], pa.string()),
        "height": pa.array(np.concatenate([index.sizes[:, 0], _zeros(problems)])),
        "width": pa.array(np.concatenate([index.sizes[:, 1], _zeros(problems)])),
        "label": names.take(pa.array(np.where(labels < 0, len(index.classes), labels))),
        "split": pa.array([*index.splits, *(p.split for p in problems)], pa.string()),
        "bytes": pa.array([*index.num_bytes.tolist(), *(p.num_bytes for p in problems)], pa.int64()),
        "modified_ns": pa.array([*index.modified_ns.tolist(), *(p.modified_ns for p in problems)], pa.int64()),
        "problem": pa.array([None] * len(index) + [p.reason for p in problems], pa.string()),
    }
    about = {"version": index.version, "root": index.root, "classes": index.classes, "choices": asdict(index.choices)}
    return pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(about)})


def _zeros(problems: tuple[Problem, ...]) -> npt.NDArray[np.int64]:
    return np.zeros(len(problems), dtype=np.int64)


def _from_arrow(table: pa.Table, path: Path) -> ShapeIndex:
    about = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"null"))
    if about is None:
        raise SourceError(f"'{path}' is a Parquet file but not an index; make one with `unsquare scan`.")
    if about["version"] not in range(1, VERSION + 1):
        raise SourceError(
            f"The index '{path}' is of version {about['version']}, but this program reads versions 1 to {VERSION}; "
            "scan the source again."
        )
    labels = pc.fill_null(pc.index_in(table["label"], value_set=pa.array(about["classes"], pa.string())), -1)
    table = table.set_column(table.schema.get_field_index("label"), "label", labels)
    rows = table.filter(pc.is_null(table["problem"]))
    return ShapeIndex(
        root=about["root"],
        classes=tuple(about["classes"]),
        keys=_objects(rows["key"]),
        sizes=np.stack([rows["height"].to_numpy(), rows["width"].to_numpy()], axis=-1).astype(np.int64),
        labels=rows["label"].to_numpy().astype(np.int32),
        splits=_objects(rows["split"]),
        num_bytes=rows["bytes"].to_numpy().astype(np.int64),
        modified_ns=rows["modified_ns"].to_numpy().astype(np.int64),
        problems=tuple(map(_problem, table.filter(pc.is_valid(table["problem"])).to_pylist())),
        choices=Choices(**about.get("choices", {})),
        version=about["version"],
    )


def _objects(column: pa.ChunkedArray) -> Strings:
    return strings(column.to_pylist())


def _problem(row: dict[str, Any]) -> Problem:
    return Problem(
        key=row["key"],
        reason=row["problem"],
        label=row["label"],
        split=row["split"],
        num_bytes=row["bytes"],
        modified_ns=row["modified_ns"],
    )
