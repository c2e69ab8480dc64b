"""What a run folder holds, read once.

A file that is not there yet is None or empty; a broken one is an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from unsquare.errors import ConfigError, RunError
from unsquare.index.table import ShapeIndex
from unsquare.runs.checkpoints import by_step, last_step, read_state
from unsquare.runs.metrics import Metrics, read_metrics
from unsquare.runs.origin import differences, words_of
from unsquare.runs.reading import TO_REPORT, DamagedFileError, read_json, read_text, reason
from unsquare.runs.schemas import Models, Plan, Profile
from unsquare.runs.tables import read_evaluation, read_index, read_memory
from unsquare.shapes import Geometry, Sizes
from unsquare.toml import tomllib

Row = Mapping[str, Any]
"""One row of the metrics."""

Floats = npt.NDArray[np.float64]

_FILES = ("config.toml", "index.parquet", "models.json", "plan.json", "metrics.jsonl", "memory.parquet")

PROFILE_VERSION = 1

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
    lost: str = ""
    """What of the metrics is lost or cannot be read, in words."""
    edited: str = ""
    """Settings that are others than the last checkpoint's, in words."""
    start_s: float = 0.0
    """Seconds from the call to the first step, each time that the run was started or went on."""

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
    metrics = _metrics(run / "metrics.jsonl")
    config = _read(run / "config.toml", _read_config) or {}
    rows = [row.to_dict() for row in metrics.rows]
    final = [row for row in rows if row["kind"] == "final"]
    return Record(
        name=run.resolve().name,
        config=config,
        index=_read(run / "index.parquet", lambda path: read_index(path, TO_REPORT)),
        models=_read(run / "models.json", lambda path: read_json(path, Models, TO_REPORT)),
        plan=_read(run / "plan.json", lambda path: read_json(path, Plan, TO_REPORT)),
        steps=_latest([row for row in rows if row["kind"] == "step"]),
        evals=_latest([row for row in rows if row["kind"] == "eval"]),
        final=final[-1] if final else None,
        memory=_read(run / "memory.parquet", _read_memory),
        evaluation=_read(run / "evaluation.parquet", _read_evaluation),
        profile=_read(run / "profile.json", lambda path: read_json(path, Profile, TO_REPORT)),
        edited=_edited(run / "checkpoints", config),
        lost=metrics.words(last_step(run / "checkpoints")),
        start_s=sum(row["seconds"] for row in rows if row["kind"] == "start"),
    )


def _read(path: Path, reader: Callable[[Path], T]) -> T | None:
    return reader(path) if os.path.lexists(path) else None


def _metrics(path: Path) -> Metrics:
    try:
        return read_metrics(path)
    except OSError as error:
        raise DamagedFileError(path, reason(error), TO_REPORT) from error


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        values = tomllib.loads(read_text(path, TO_REPORT))
    except tomllib.TOMLDecodeError as error:
        raise DamagedFileError(path, reason(error), TO_REPORT) from error
    if strange := [name for name, table in values.items() if not isinstance(table, dict)]:
        raise DamagedFileError(path, f"{strange[0]!r} is no table of settings", TO_REPORT)
    return values


def _edited(checkpoints: Path, config: Mapping[str, Any]) -> str:
    """The settings that differ from those of the last checkpoint; nothing where either is not known."""
    paths = by_step(checkpoints)
    try:
        origin = read_state(paths[-1]).origin if paths and config else None
    except RunError:  # a resume says what is wrong with it
        return ""
    return words_of(differences(origin.settings, config)) if origin is not None else ""


def _latest(rows: list[Row]) -> list[Row]:
    """One row per step and split, the last written, in order: a resumed run repeats the steps it had lost."""
    latest = {(row["step"], row.get("split")): row for row in rows}
    return [latest[key] for key in sorted(latest, key=lambda key: (key[0], key[1] or ""))]


def _read_memory(path: Path) -> MemoryTrace | None:
    return trace_of(read_memory(path, TO_REPORT).to_pydict())


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
    rows = [row for row in read_evaluation(path, TO_REPORT).to_pylist() if row["label"]]
    if not rows:
        return None
    return Evaluation(
        keys=[row["key"] for row in rows],
        labels=[row["label"] for row in rows],
        predicted=[row["predicted"] for row in rows],
        probability=np.array([row["probability"] for row in rows], dtype=np.float64),
        sizes=np.array([(row["height"], row["width"]) for row in rows], dtype=np.int64),
    )
