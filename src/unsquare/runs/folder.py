"""The run folder: the files of a run, written so that a power cut at any moment loses little."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unsquare.errors import RunError
from unsquare.files import clear_partials, partial_of, write_text
from unsquare.runs import checkpoints
from unsquare.runs.memory_profile import RunLimits
from unsquare.runs.metrics import Metrics, MetricsFile, read_metrics
from unsquare.runs.reading import NEW_RUN, read_json, read_text, reason, with_checksum
from unsquare.runs.rows import EvaluationRow
from unsquare.runs.schemas import Mark

_LOCK = "run.lock"
_NAMES = {
    *("config.toml", "index.parquet", "models.json", "plan.json", "metrics.jsonl", "memory.parquet"),
    *("evaluation.parquet", "profile.json", "report.html", "checkpoints", _LOCK),
}
_MARKS = {"checkpoints", _LOCK}
"""A folder that holds one of them belongs to a run, whatever else it lacks."""


class RunFolder:
    """The files of one run, by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.index = path / "index.parquet"
        self.models = path / "models.json"
        self.plan = path / "plan.json"
        self.metrics = path / "metrics.jsonl"
        self.memory = path / "memory.parquet"
        self.evaluation = path / "evaluation.parquet"
        self.checkpoints = path / "checkpoints"
        self.profile = path / "profile.json"
        self.report = path / "report.html"
        self._lock: int | None = None
        self._metrics = MetricsFile(self.metrics)

    def claim(self) -> None:
        """Create the folder if needed, and lock it; it must hold nothing but a run's files.

        Files with a run's names where no run has been, such as settings or an index to start from, belong to the user.

        Raises:
            RunError: the folder holds something else, is in use, or cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            entries = list(self.path.iterdir())
            whole = {each.name for each in entries if partial_of(each) is None}
            own = _NAMES if not whole.isdisjoint(_MARKS) else _MARKS
            strange = [each.name for each in entries if (partial_of(each) or each.name) not in _NAMES]
            strange += sorted(whole - own)
        except OSError as error:
            raise RunError(
                f"The run folder {self.path} cannot be written ({reason(error)}); give another with --out."
            ) from error
        if strange:
            raise RunError(
                f"The run folder must be empty, but {self.path} holds {min(strange)!r}; give another folder with --out."
            )
        self.lock()

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a run that has started.

        Raises:
            RunError: there is no run in it.
        """
        run = cls(path)
        if not run.config.is_file() and not run.checkpoints.is_dir():
            if os.path.lexists(path / _LOCK):
                raise RunError(run.no_checkpoint)
            raise RunError(
                f"{path} is not a run folder, since it has no config.toml; give the folder that --out named."
            )
        return run

    def lock(self) -> None:
        """Lock the folder until `unlock` or the end of this process, however it ends; clear what dead processes left.

        Raises:
            RunError: another process trains into it.
        """
        with self.writing(self.path / _LOCK):
            # Neither open waits where the lock's name is that of a pipe.
            lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BaseException as error:
                os.close(lock)
                if isinstance(error, BlockingIOError):
                    raise RunError(
                        f"Another process is training in the run folder {self.path}; wait for it, or give another "
                        "folder with --out. To train one run with several processes, start them by torchrun."
                    ) from error
                raise
            self._lock = lock
            clear_partials(self.path)
            checkpoints.tidy(self.checkpoints)

    def unlock(self) -> None:
        """Let other processes train in the folder; does nothing where it is not locked."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def discard(self) -> None:
        """Remove a folder that was claimed, if the run never began to train; other files stay."""
        if self._lock is None:
            return
        self.clear()
        (self.path / _LOCK).unlink(missing_ok=True)
        self.unlock()
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def require_never_saved(self) -> None:
        """Refuse to start a new run where an earlier one had checkpoints that are now missing.

        Raises:
            RunError: there are files that are only written after a checkpoint.
        """
        left = next((path for path in (self.memory, self.evaluation) if os.path.lexists(path)), None)
        if left is not None:
            raise RunError(
                f"The run cannot be resumed, because {self.checkpoints} is empty, though {left.name} shows that there "
                "were checkpoints; put them back, or remove the run folder and start a new run."
            )

    def clear(self) -> None:
        """Delete the files of a run that never wrote a checkpoint."""
        with self.writing(self.path):
            for entry in self.path.iterdir():
                if entry.name in _NAMES and entry.name != _LOCK:
                    checkpoints.remove(entry)

    @property
    def no_checkpoint(self) -> str:
        """The message where there is no checkpoint to resume from yet."""
        return (
            f"The run in {self.path} stopped before its first checkpoint, so it cannot be resumed; repeat the command "
            f"that started it, `unsquare train SOURCE --out {self.path}`."
        )

    @property
    def is_begun(self) -> bool:
        """Whether a run has left any files here."""
        return any(os.path.lexists(self.path / name) for name in _NAMES if name != _LOCK)

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Within the block, an error of the disk is a RunError that says what to do.

        Raises:
            RunError: the folder was removed, the disk is full, or it may not be written.
        """
        try:
            yield
        except OSError as error:
            raise RunError(self._unwritable(path, reason(error))) from error

    def _unwritable(self, path: Path, why: str) -> str:
        if self._lock is not None and not os.fstat(self._lock).st_nlink:
            return (
                f"The run folder {self.path} was removed or replaced while its run was training; give the same command "
                "again to start a new run."
            )
        return f"{path} cannot be written ({why}); free space or fix that, then give the same command again."

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add a row to the metrics.

        Raises:
            RunError: it cannot be written, or the folder was removed.
        """
        with self.writing(self.metrics):
            if self._lock is not None and not os.fstat(self._lock).st_nlink:
                raise OSError("it was removed")
            self._metrics.append(row)

    def mark_metrics(self) -> Mark:
        """The current end of the metrics."""
        with self.writing(self.metrics):
            return self._metrics.mark()

    def read_metrics(self) -> Metrics:
        """All rows that can be read.

        Raises:
            RunError: the file cannot be read.
        """
        try:
            return read_metrics(self.metrics)
        except OSError as error:
            raise RunError(f"{self.metrics} cannot be read ({reason(error)}); move it away.") from error

    def read_evals(self) -> list[EvaluationRow]:
        """The evaluations in the course of training, in order: the last row of each epoch; raises like
        `read_metrics`."""
        values = (row.values for row in self.read_metrics().rows)
        by_step = {row.step: row for row in values if type(row) is EvaluationRow}
        return [by_step[step] for step in sorted(by_step)]

    def keep_metrics_until(self, step: int, mark: Mark | None) -> str:
        """Remove the rows after a step, which a resumed run writes again; return what is lost of earlier ones."""
        try:
            words = self._metrics.keep_until(step, mark)
        except OSError as error:
            raise RunError(f"{self.metrics} cannot be used ({reason(error)}); move it away.") from error
        return f"{self.metrics} has changed: {words}; no weight depends on it, so the run continues." if words else ""

    def read_config(self) -> str:
        """The text of the settings.

        Raises:
            RunError: it cannot be read.
        """
        return read_text(self.config, "fix it")

    def write_config(self, text: str) -> None:
        """Write the settings atomically."""
        with self.writing(self.config):
            write_text(self.config, text)

    def write_json(self, path: Path, value: Any) -> None:
        """Write a JSON object atomically, with a checksum."""
        with self.writing(path):
            write_text(path, with_checksum(json.dumps(value, indent=1)) + os.linesep)

    def read_limits(self, remedy: str = NEW_RUN) -> RunLimits:
        """The limits of the run's plans.

        Raises:
            RunError: `models.json` is missing or does not match its schema.
        """
        return RunLimits.from_dict(self.read_json(self.models, RunLimits, remedy))

    def read_json(self, path: Path, schema: type[Any], remedy: str = NEW_RUN) -> dict[str, Any]:
        """Read one of the run's JSON files.

        Raises:
            RunError: it is missing or does not match its schema.
        """
        return read_json(path, schema, remedy)
