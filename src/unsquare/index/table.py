"""The index: one row per image with its shape, label and split, and the files that cannot be used.

Columns are arrays, so that planning half a million images takes a few NumPy calls. On disk it is one Parquet file, with
problems (rows of height 0 with a reason), and with the schema's version in the metadata; nothing is unpickled.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unsquare.errors import ConfigError, SourceError
from unsquare.files import require_regular
from unsquare.index.choices import Choices
from unsquare.index.text import Strings, empty_strings, strings
from unsquare.parquet import read_table, write_table
from unsquare.settings import check_settings, checks_arguments, received
from unsquare.shapes import Sizes

METADATA_KEY = b"unsquare.index"
VERSION = 3
"""Raised whenever the columns, or the rules by which a header becomes a row, change. After that, the next scan reads
all files again; older indexes can still be read. A column that only some indexes have, as that of groups, changes no
version: an index without it is written as before, byte for byte. Version 2 keeps the choices; 3 refuses BMPs
whose runs leave pixels out, and colors that are multiplied by opacity where zero is not black."""
TARGETS_VERSION = 4
"""Version of an index with targets, which is otherwise as in version 3: earlier releases would see no labels in it."""

Task = Literal["classification", "multilabel", "regression"]
"""What is learned of each picture: one class, any number of labels, or a number."""

_COLUMNS = {
    "key": pa.string(),
    "height": pa.int64(),
    "width": pa.int64(),
    "label": pa.string(),
    "split": pa.string(),
    "bytes": pa.int64(),
    "modified_ns": pa.int64(),
    "problem": pa.string(),
}
_MAY_LACK = frozenset({"label", "problem", "targets"})
_OPTIONAL = {"group": pa.string(), "targets": pa.list_(pa.float64())}
"""Written where any image has a group, and for a task other than classification."""
LONGEST_SIDE = 1 << 30
"""The longest side of an image in an index."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A file that was listed but cannot be used, and why.

    Example:
        >>> from pathlib import Path
        >>> Path("photos/train/silk/new.jpg").touch()
        >>> [problem] = unsquare.scan_source("photos").problems
        >>> print(problem.key, problem.reason)
        train/silk/new.jpg is empty
    """

    key: str
    reason: str
    """A phrase that follows the file's name: "is empty"."""
    label: int = -1
    split: str = ""
    num_bytes: int = 0
    modified_ns: int = 0
    """0 where the file could not be opened; such files are tried again by every scan."""


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Something to know of a source that is not a reason to refuse it.

    Example:
        >>> from pathlib import Path
        >>> Path("photos/train/linen").mkdir()
        >>> [remark.kind for remark in unsquare.find_remarks(unsquare.scan_source("photos"))]
        ['empty_folder']
    """

    kind: str
    """A fixed name for programs: "empty_folder"."""
    text: str
    """One sentence."""
    count: int = 1
    """The number of files, folders, classes or columns that it is about."""
    names: tuple[str, ...] = ()
    """The first of them."""
    important: bool = False
    """Whether training prints it before it starts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ShapeIndex:
    """The images of one source in the order of their keys.

    Example:
        >>> index = unsquare.scan_source("photos")
        >>> index.classes
        ('silk', 'wool')
        >>> train = index.of_split("train")
        >>> len(train)
        8
        >>> train.sizes[:2].tolist()
        [[40, 64], [44, 60]]
    """

    root: str
    """Folder that keys are relative to; empty where there are no files."""
    classes: tuple[str, ...]
    """Class names, sorted; labels are positions in it. Names of the labels or of the value in the other tasks."""
    keys: Strings
    """(N,) unique names, relative POSIX paths, sorted by code point so that every machine has one order."""
    sizes: Sizes
    """(N, 2) height, width as displayed, the EXIF orientation applied."""
    labels: npt.NDArray[np.int32]
    """(N,) positions in `classes`, -1 for images without a label, and for all in tasks other than classification."""
    splits: Strings
    """(N,) "train", "val", "test", or "" for images without a split."""
    num_bytes: npt.NDArray[np.int64]
    """(N,) file sizes, 0 where unknown."""
    modified_ns: npt.NDArray[np.int64]
    """(N,) modification times, 0 where unknown."""
    groups: Strings = field(default_factory=lambda: empty_strings(0))
    """(N,) names of what images show that no split may tear apart, such as a patient; "" for images of no group. None
    have one where it is left out."""
    problems: tuple[Problem, ...] = ()
    notes: tuple[Remark, ...] = ()
    """Remarks on the source's folders, links or columns; `find_remarks` adds those on rows."""
    choices: Choices = field(default_factory=Choices)
    """How files that can be read in more than one way were read."""
    task: Task = "classification"
    """What the targets are for: classification has labels instead."""
    targets: npt.NDArray[np.float64] | None = None
    """(N, K) for each of `classes` 0 or 1 (multilabel) or the number (regression), NaN for images without a label; None
    for classification."""
    version: int = VERSION

    def __post_init__(self) -> None:
        length = self.keys.shape[:1] if isinstance(self.keys, np.ndarray) else ("N",)
        if isinstance(self.groups, np.ndarray) and not len(self.groups) and length[0] != "N":
            object.__setattr__(self, "groups", empty_strings(length[0]))
        for name in ("keys", "sizes", "labels", "splits", "groups", "num_bytes", "modified_ns"):
            column = getattr(self, name)
            wanted = (*length, 2) if name == "sizes" else (*length,)
            if not isinstance(column, np.ndarray) or column.shape != wanted:
                got = f"has the shape {column.shape}" if isinstance(column, np.ndarray) else f"is {received(column)}"
                raise ConfigError(f"{name} of an index must be an array of shape {wanted}, but {got}.")
        check_settings(self)
        found = None if self.targets is None else self.targets.shape
        expected = None if self.task == "classification" else (*length, len(self.classes))
        if found != expected:
            raise ConfigError(f"targets of an index for {self.task} must have the shape {expected}, but have {found}.")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def all_train(self) -> bool:
        """Whether nothing is held out: every row has a split, and it is train."""
        return bool(len(self)) and bool(np.all(self.splits == "train"))

    @property
    def labeled(self) -> npt.NDArray[np.bool_]:
        """(N,) whether each image has what the task needs: a class, labels, or a number."""
        known: npt.NDArray[np.bool_] = self.labels >= 0
        return known if self.targets is None else np.logical_not(np.isnan(self.targets).any(axis=1))

    @property
    def strata(self) -> npt.NDArray[np.int32]:
        """(N,) what held-out parts are spread over evenly: the class; 0 in the other tasks; -1 without a label."""
        return self.labels if self.targets is None else np.where(self.labeled, 0, -1).astype(np.int32)

    @property
    def num_strata(self) -> int:
        """How many of these there may be."""
        return len(self.classes) if self.targets is None else 1

    @property
    def label_numbers(self) -> npt.NDArray[np.int64]:
        """(N,) a number for each image, equal where images are labeled alike, whatever the task."""
        if self.targets is None:
            return self.labels.astype(np.int64)
        return np.unique(self.targets, axis=0, return_inverse=True)[1].reshape(-1)

    def label_text(self, row: int) -> str:
        """What one row is labeled with, for people."""
        if self.targets is None:
            return self.classes[self.labels[row]] if self.labels[row] >= 0 else "none"
        if np.isnan(self.targets[row]).any():
            return "none"
        if self.task == "regression":
            return f"{self.targets[row, 0]:g}"
        return ", ".join(self.classes[at] for at in np.flatnonzero(self.targets[row])) or "none of the labels"

    def path(self, row: int) -> Path:
        """The file of one row; keys that are absolute paths are used as they are."""
        return Path(self.root, self.keys[row])

    def take(self, rows: npt.ArrayLike) -> ShapeIndex:
        """The rows at these positions (or under this mask), in that order, without the problems."""
        rows = np.asarray(rows)
        if rows.dtype != bool:
            rows = rows.astype(np.int64)
        return replace(
            self,
            keys=self.keys[rows],
            sizes=self.sizes[rows],
            labels=self.labels[rows],
            splits=self.splits[rows],
            groups=self.groups[rows],
            num_bytes=self.num_bytes[rows],
            modified_ns=self.modified_ns[rows],
            targets=None if self.targets is None else self.targets[rows],
            problems=(),
        )

    @checks_arguments
    def of_split(self, split: str) -> ShapeIndex:
        """The rows and problems of one split."""
        problems = tuple(problem for problem in self.problems if problem.split == split)
        return replace(self.take(self.splits == split), problems=problems)

    @checks_arguments
    def write(self, path: Path) -> None:
        """Write the index as one Parquet file; readers see the old file or the new one, never a part."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, _to_arrow(self))

    @classmethod
    @checks_arguments
    def read(cls, path: Path) -> ShapeIndex:
        """The index that `write` wrote.

        Raises:
            SourceError: the file is missing, is not an index, or is of another version.
        """
        if not is_index(path):
            raise SourceError(f"'{path}' is a Parquet file but not an index; make one with `unsquare scan`.")
        try:
            return _from_arrow(read_table(path, _COLUMNS, _MAY_LACK, optional=_OPTIONAL), path)
        except ValueError as error:
            raise SourceError(f"The index '{path}' cannot be read: {error}.") from error


def is_index(path: Path) -> bool:
    """Whether this Parquet file is an index rather than a user's manifest."""
    try:
        require_regular(path)
        with path.open("rb") as file:  # as in `parquet`
            return METADATA_KEY in (pq.read_schema(file).metadata or {})
    except (OSError, pa.ArrowException) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise SourceError(f"'{path}' cannot be read as a Parquet file: {said}.") from error


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
    if np.any(index.groups != ""):
        columns["group"] = pa.array([*index.groups, *("" for _ in problems)], pa.string())
    if index.targets is not None:
        columns["targets"] = pa.array([*index.targets, *(None for _ in problems)], _OPTIONAL["targets"])
    about = {
        "version": index.version,
        "root": index.root,
        "classes": index.classes,
        "choices": asdict(index.choices),
        "notes": [asdict(note) for note in index.notes],
    }
    if index.targets is not None:
        about["task"] = index.task
    return pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(about)})


def _zeros(problems: tuple[Problem, ...]) -> npt.NDArray[np.int64]:
    return np.zeros(len(problems), dtype=np.int64)


class _About(msgspec.Struct):
    """What the schema's metadata holds."""

    version: int
    root: str
    classes: tuple[str, ...]
    choices: Choices = msgspec.field(default_factory=Choices)
    notes: tuple[Remark, ...] = ()
    task: Task = "classification"


def _from_arrow(table: pa.Table, path: Path) -> ShapeIndex:
    """The index in a table; raises ValueError where its rows are invalid."""
    about = _about(table, path)
    labels = pc.fill_null(pc.index_in(table["label"], value_set=pa.array(about.classes, pa.string())), -1)
    if pc.sum(pc.equal(labels, -1)).as_py() != table["label"].null_count and len(table):
        raise ValueError("it has a label that is not one of its classes")
    table = table.set_column(table.schema.get_field_index("label"), "label", labels)
    rows = table.filter(pc.is_null(table["problem"]))
    sizes = np.stack([rows["height"].to_numpy(), rows["width"].to_numpy()], axis=-1).astype(np.int64)
    if ((sizes < 1) | (sizes > LONGEST_SIDE)).any():
        raise ValueError("it has an image without height or width")
    return ShapeIndex(
        root=about.root,
        classes=about.classes,
        keys=_objects(rows["key"]),
        sizes=sizes,
        labels=rows["label"].to_numpy().astype(np.int32),
        splits=_objects(rows["split"]),
        groups=_objects(rows["group"]) if "group" in rows.column_names else empty_strings(len(rows)),
        num_bytes=rows["bytes"].to_numpy().astype(np.int64),
        modified_ns=rows["modified_ns"].to_numpy().astype(np.int64),
        problems=tuple(map(_problem, table.filter(pc.is_valid(table["problem"])).to_pylist())),
        choices=about.choices,
        notes=about.notes,
        task=about.task,
        targets=None if about.task == "classification" else _read_targets(rows, about),
        version=about.version,
    )


def _read_targets(rows: pa.Table, about: _About) -> npt.NDArray[np.float64]:
    """The targets in a table, (N, K); raises ValueError where they are not those of the task."""
    if "targets" not in rows.column_names:
        raise ValueError("it lacks the column 'targets'")
    column, number = rows["targets"].combine_chunks(), len(about.classes)
    if column.null_count or pc.any(pc.not_equal(pc.list_value_length(column), number)).as_py():
        raise ValueError(f"its column 'targets' must have {number} numbers in each row")
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(rows), number)
    known = values[~np.isnan(values)]
    if not np.isfinite(known).all() or (about.task == "multilabel" and not np.isin(known, (0, 1)).all()):
        raise ValueError(f"its column 'targets' has a number that no {about.task} has")
    return values


def _about(table: pa.Table, path: Path) -> _About:
    # Read by the standard library, since a source's path need not be UTF-8, which msgspec requires.
    about = msgspec.convert(json.loads(table.schema.metadata[METADATA_KEY]), type=_About)
    if about.version not in range(1, TARGETS_VERSION + 1):
        raise SourceError(
            f"The index '{path}' is of version {about.version}, but this program reads versions 1 to "
            f"{TARGETS_VERSION}; scan the source again."
        )
    return about


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
