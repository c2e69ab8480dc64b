"""What a run folder holds, read once.

A file that is not there yet is None or empty; so is one that cannot be read, with the reason kept, so that a page can
be made of what is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from unsquare.errors import ConfigError, RunError
from unsquare.index.by_shape import ShapeOnly, shape_only
from unsquare.index.table import ShapeIndex, Task
from unsquare.report.kit.trace import MemoryTrace, trace_of
from unsquare.report.run.judged import Judged, judged_of
from unsquare.runs import upgrades
from unsquare.runs.checkpoints import BEST, by_step, last_step, read_state
from unsquare.runs.memory_profile import RunLimits
from unsquare.runs.metrics import decoded
from unsquare.runs.origin import differences, words_of
from unsquare.runs.reading import NEW_RUN, DamagedFileError, read_bytes, read_json, read_text, reason
from unsquare.runs.rows import EvaluationRow, FinalRow, StartRow, StepRow
from unsquare.runs.schemas import NetworkProfile, Origin, PlanFile
from unsquare.runs.selection import BestOfSeveral, best_of, best_of_several
from unsquare.runs.tables import read_evaluation, read_index, read_memory
from unsquare.shapes import Geometry, Sizes
from unsquare.toml import tomllib

_FILES = ("config.toml", "index.parquet", "models.json", "plan.json", "metrics.jsonl", "memory.parquet")

T = TypeVar("T")
R = TypeVar("R", StepRow, EvaluationRow)


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """Everything that the page is made from."""

    name: str
    config: Mapping[str, Any]
    index: ShapeIndex | None
    limits: RunLimits | None
    plan: PlanFile | None
    steps: list[StepRow]
    evals: list[EvaluationRow]
    """Evaluations in the course of training."""
    final: FinalRow | None
    """The evaluation of the best weights, after training."""
    memory: MemoryTrace | None
    evaluation: Judged | None
    profile: NetworkProfile | None = None
    """What `unsquare profile` wrote."""
    lost: str = ""
    """What of the metrics is lost or damaged, in words."""
    edited: str = ""
    """Settings that differ from the last checkpoint's, in words."""
    best_step: int | None = None
    """Steps done when the best weights were saved."""
    start_s: float = 0.0
    """Seconds from the call to the first step, over all starts."""
    damaged: Mapping[str, str] = field(default_factory=dict)
    """Files that cannot be read, by name, and why."""

    @property
    def judged(self) -> EvaluationRow | None:
        """The evaluation that the page leads with: the best weights' after training, else the last one."""
        return self.final or (self.evals[-1] if self.evals else None)

    @property
    def best(self) -> EvaluationRow | None:
        """The evaluation that chose the best weights: that of their own step, else by the rule of training."""
        own = next((row for row in self.evals if row.step == self.best_step), None)
        return own or best_of(self.evals)

    @property
    def chosen(self) -> BestOfSeveral | None:
        """How the images that the page leads with chose the weights; None where they did not."""
        sizes = "," in str(self.setting("resolution", "progressive"))  # several stages
        return best_of_several(self.evals, self.final.split, sizes=sizes) if self.final else None

    @cached_property
    def shape_only(self) -> ShapeOnly | None:
        """What width and height alone reach on the images that the page leads with; None where that is not known, and
        where there are no classes."""
        if self.index is None or self.judged is None or self.task != "classification":
            return None
        return shape_only(self.index.of_split("train"), self.index.of_split(self.judged.split))

    @property
    def task(self) -> Task:
        """What was learned."""
        if self.index is not None:
            return self.index.task
        return self.judged.task if self.judged is not None else "classification"

    def setting(self, table: str, name: str) -> Any:
        """A setting, or None where the settings lack it."""
        values = self.config.get(table)
        return values.get(name) if isinstance(values, Mapping) else None

    def lack_of(self, name: str, words: str) -> str:
        """What is said in place of a file's content: the words for one that is not there, or why it cannot be read."""
        if name in self.damaged:
            return f"{name} cannot be read ({self.damaged[name]})."
        return f"{words} ({name}) in this run folder."

    def damage(self) -> list[str]:
        """A sentence for each file that cannot be read."""
        return [
            f"The report shows what is in the files of a run, but {name} of {self.name} cannot be read ({why}); put it "
            "back, or move it away."
            for name, why in self.damaged.items()
        ]

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
        return _geometry_of(self.config)


def read_record(run: Path) -> Record:
    """Everything in a run folder.

    Raises:
        RunError: the folder is missing, or is not a run.
    """
    _require_run(run)
    damaged: dict[str, str] = {}

    def read(name: str, reader: Callable[[Path], T]) -> T | None:
        try:
            return reader(run / name) if os.path.lexists(run / name) else None
        except DamagedFileError as error:
            damaged[name] = error.reason
            return None

    index = read("index.parquet", read_index)
    classes = index.classes if index is not None else ()
    metrics = decoded(read("metrics.jsonl", read_bytes) or b"")
    origin = _origin(run / "checkpoints")
    config = read("config.toml", _read_config)
    edited = words_of(differences(origin.settings, config)) if origin and config else ""
    if "config.toml" in damaged and origin is not None:
        config = origin.settings
    rows = [row.values for row in metrics.rows]
    final = [row for row in rows if isinstance(row, FinalRow)]
    return Record(
        name=run.resolve().name,
        config=config or {},
        index=index,
        limits=read("models.json", lambda path: RunLimits.from_dict(read_json(path, RunLimits))),
        plan=read("plan.json", lambda path: _read_as(path, PlanFile)),
        steps=_latest([row for row in rows if isinstance(row, StepRow)]),
        evals=_latest([row for row in rows if type(row) is EvaluationRow]),
        final=final[-1] if final else None,
        memory=read("memory.parquet", lambda path: trace_of(read_memory(path).to_pydict())),
        evaluation=read("evaluation.parquet", lambda path: _read_evaluation(path, classes)),
        profile=read("profile.json", lambda path: _read_as(path, NetworkProfile)),
        edited=edited,
        lost=metrics.words(last_step(run / "checkpoints")),
        best_step=_best_step(run / "checkpoints" / BEST),
        start_s=sum(row.seconds for row in rows if isinstance(row, StartRow)),
        damaged=damaged,
    )


def _require_run(run: Path) -> None:
    if not run.is_dir():
        raise RunError(f"{run} is not a folder; give the run folder that training wrote to.")
    if not any(os.path.lexists(run / name) for name in _FILES):
        raise RunError(f"{run} is not a run folder: it holds none of {', '.join(_FILES)}.")


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        values = upgrades.settings(tomllib.loads(read_text(path)))
        if strange := [name for name, table in values.items() if not isinstance(table, dict)]:
            raise ValueError(f"{strange[0]!r} is no table of settings")
        _geometry_of(values)
    except (ValueError, TypeError, RecursionError, ConfigError) as error:
        raise DamagedFileError(path, reason(error), "correct it") from error
    return values


def _geometry_of(config: Mapping[str, Any]) -> Geometry:
    """The geometry of settings; raises ConfigError or TypeError where it has values that it may not have."""
    known = Geometry.__dataclass_fields__
    return Geometry(**{name: value for name, value in config.get("geometry", {}).items() if name in known})


def _origin(checkpoints: Path) -> Origin | None:
    """What the last checkpoint was trained from; None where that is not known."""
    paths = by_step(checkpoints)
    try:
        return read_state(paths[-1]).origin if paths else None
    except RunError:  # a resume says what is wrong with it
        return None


def _best_step(path: Path) -> int | None:
    """Steps done when a checkpoint was written; None where that is not known."""
    try:
        return read_state(path).step if os.path.lexists(path) else None
    except RunError:  # as above
        return None


def _latest(rows: list[R]) -> list[R]:
    """One row per step and split, the last written, in order: a resumed run repeats the steps it had lost."""
    latest = {(row.step, getattr(row, "split", "")): row for row in rows}
    return [latest[key] for key in sorted(latest)]


def _read_as(path: Path, schema: type[T]) -> T:
    """The content of a JSON file as a value of its schema."""
    return msgspec.convert(read_json(path, schema), schema)


def _read_evaluation(path: Path, classes: Sequence[str]) -> Judged | None:
    try:
        return judged_of(read_evaluation(path), classes)
    except ValueError as error:
        raise DamagedFileError(path, str(error), NEW_RUN) from error
