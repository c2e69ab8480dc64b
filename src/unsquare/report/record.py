"""What a run folder holds, read once.

A file that is not there yet is None or empty; a broken one is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from unsquare.errors import ConfigError, RunError, UnsquareError
from unsquare.index.table import ShapeIndex
from unsquare.shapes import Geometry, Sizes
from unsquare.toml import tomllib

Row = Mapping[str, Any]
"""One row of the metrics."""

Floats = npt.NDArray[np.float64]

_FILES = ("config.toml", "index.parquet", "models.json", "plan.json", "metrics.jsonl", "memory.parquet")

MODELS_VERSION, PROFILE_VERSION = 2, 1

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryTrace:
    """Memory sampled over the run."""

    time_s: Floats
    used_bytes: Floats
    """Of the device's allocator where there is one, else of the process."""
    allocated_bytes: Floats
    """Blocks in use; NaN where nobody says."""
    sizes: Sizes
    """Canvas of the micro-batch at work, (N, 2); 0 between two."""
    phase: npt.NDArray[np.str_]
    """data, forward, backward, update, or nothing of these."""
    images: npt.NDArray[np.int64]
    """Images of the micro-batch at work, 0 between two."""
    on_device: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """The last evaluation, image by image; all arrays have one entry for each."""

    keys: list[str]
    labels: list[str]
    predicted: list[str]
    probability: Floats
    sizes: Sizes

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each prediction is the label."""
        return np.array([a == b for a, b in zip(self.labels, self.predicted)], dtype=bool)


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """Everything that the page is made from."""

    name: str
    config: Mapping[str, Any]
    index: ShapeIndex | None
    models: Mapping[str, Any] | None
    plan: Mapping[str, Any] | None
    steps: list[Row]
    evals: list[Row]
    """Evaluations in the course of training."""
    final: Row | None
    """The evaluation of the weights that were kept, after training."""
    memory: MemoryTrace | None
    evaluation: Evaluation | None
    profile: Mapping[str, Any] | None = None
    """What `unsquare profile` wrote."""

    def setting(self, table: str, name: str) -> Any:
        """A setting, or None where the settings lack it."""
        values = self.config.get(table)
        return values.get(name) if isinstance(values, Mapping) else None

    def training_sizes(self) -> Sizes:
        """The shapes that training sees: of the train split, after resizing and cropping."""
        if self.index is None:
            return np.zeros((0, 2), dtype=np.int64)
        train = self.index.of_split("train")
        sizes = train.sizes if len(train) else self.index.sizes
        geometry = self.geometry()
        return geometry.crop(geometry.resize(sizes))

    def geometry(self) -> Geometry:
        """The rule from file shape to training shape."""
        table = self.config.get("geometry")
        known = Geometry.__dataclass_fields__
        values = {name: value for name, value in table.items() if name in known} if table else {}
        try:
            return Geometry(**values)
        except (ConfigError, TypeError) as error:
            raise RunError(f"config.toml of {self.name} has a geometry that cannot be used: {error}") from error


def read_record(run: Path) -> Record:
    """Everything in a run folder.

    Raises:
        RunError: the folder is missing, is not a run, or holds a file that cannot be read.
    """
    if not run.is_dir():
        raise RunError(f"{run} is not a folder; give the run folder that training wrote to.")
    if not any((run / name).exists() for name in _FILES):
        raise RunError(f"{run} is not a run folder: it holds none of {', '.join(_FILES)}.")
    rows = _read(run / "metrics.jsonl", _read_rows) or []
    final = [row for row in rows if row.get("kind") == "final"]
    return Record(
        name=run.resolve().name,
        config=_read(run / "config.toml", lambda path: tomllib.loads(path.read_text(encoding="utf-8"))) or {},
        index=_read(run / "index.parquet", ShapeIndex.read),
        models=_read(run / "models.json", lambda path: _read_versioned(path, MODELS_VERSION)),
        plan=_read(run / "plan.json", _read_json),
        steps=_latest([row for row in rows if row.get("kind") == "step"]),
        evals=_latest([row for row in rows if row.get("kind") == "eval"]),
        final=final[-1] if final else None,
        memory=_read(run / "memory.parquet", _read_memory),
        evaluation=_read(run / "evaluation.parquet", _read_evaluation),
        profile=_read(run / "profile.json", lambda path: _read_versioned(path, PROFILE_VERSION)),
    )


def require_version(values: Mapping[str, Any], version: int, name: str) -> None:
    """Refuse what another release wrote.

    Raises:
        RunError: the version is another.
    """
    if values.get("version") != version:
        raise RunError(
            f"{name} has version {values.get('version')}, but this release reads version {version}; have this release "
            "write it anew, or move it away to report without it."
        )


def _read(path: Path, reader: Callable[[Path], T]) -> T | None:
    if not path.exists():
        return None
    try:
        return reader(path)
    except UnsquareError:
        raise
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{path} cannot be read ({reason}); move it away to report without it.") from error


def _read_json(path: Path) -> Mapping[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("it must hold one JSON object")
    return value


def _read_versioned(path: Path, version: int) -> Mapping[str, Any]:
    values = _read_json(path)
    require_version(values, version, str(path))
    return values


def _read_rows(path: Path) -> list[Row]:
    """The rows; a last line without its end, where a run was killed while writing, is not one."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.strip()]


def _latest(rows: list[Row]) -> list[Row]:
    """One row per step and split, the last written, in order: a resumed run repeats the steps it had lost."""
    latest = {(row["step"], row.get("split")): row for row in rows}
    return [latest[key] for key in sorted(latest, key=lambda key: (key[0], key[1] or ""))]


def _read_memory(path: Path) -> MemoryTrace | None:
    table = pq.read_table(path)
    return trace_of({name: table[name].to_pylist() for name in table.column_names})


def trace_of(columns: Mapping[str, list[Any]]) -> MemoryTrace | None:
    """The trace in columns as `memory.parquet` has them; None of no samples.

    Raises:
        KeyError: a column is missing.
    """
    if not columns["time_s"]:
        return None
    reserved = _floats(columns["reserved_bytes"])
    on_device = bool(np.isfinite(reserved).any())
    used = reserved if on_device else _floats(columns["resident_bytes"])
    kept = np.isfinite(used)
    return MemoryTrace(
        time_s=_floats(columns["time_s"])[kept],
        used_bytes=used[kept],
        allocated_bytes=_floats(columns["allocated_bytes"])[kept],
        images=np.nan_to_num(_floats(columns["images"])[kept]).astype(np.int64),
        sizes=np.stack([np.nan_to_num(_floats(columns[side])[kept]) for side in ("height", "width")], 1).astype(
            np.int64
        ),
        phase=np.array([value or "" for value in columns["phase"]])[kept],
        on_device=on_device,
    )


def _floats(column: list[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in column], dtype=np.float64)


def _read_evaluation(path: Path) -> Evaluation | None:
    rows = [row for row in pq.read_table(path).to_pylist() if row["label"]]
    if not rows:
        return None
    return Evaluation(
        keys=[row["key"] for row in rows],
        labels=[row["label"] for row in rows],
        predicted=[row["predicted"] for row in rows],
        probability=np.array([row["probability"] for row in rows], dtype=np.float64),
        sizes=np.array([(row["height"], row["width"]) for row in rows], dtype=np.int64),
    )
