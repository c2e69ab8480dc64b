"""The run folder: what a run leaves behind, written so that a power cut at any moment loses little."""

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
from unsquare.runs.reading import ANEW, read_json, read_text, reason, with_checksum
from unsquare.runs.schemas import Mark

_LOCK = "run.lock"
_NAMES = {
    *("config.toml", "index.parquet", "models.json", "plan.json", "metrics.jsonl", "memory.parquet"),
    *("evaluation.parquet", "profile.json", "report.html", "checkpoints", _LOCK),
}
_MARKS = {"checkpoints", _LOCK}
"""A folder with one of them is a run's, whatever else it lacks."""


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
        """Make the folder where it is not there, and lock it; it must hold nothing but a run's files.

        Files of a run's names where no run has been, such as settings or an index to start from, are somebody's.

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
                f"A run needs a folder of its own, but {self.path} is not empty: it holds {min(strange)!r}; give "
                "another one with --out."
            )
        self.lock()

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a run that was started.

        Raises:
            RunError: there is no run there.
        """
        run = cls(path)
        if not run.config.is_file() and not run.checkpoints.is_dir():
            if os.path.lexists(path / _LOCK):
                raise RunError(run.no_checkpoint)
            raise RunError(f"A run folder holds a config.toml, but {path} does not; give the folder that --out named.")
        return run

    def lock(self) -> None:
        """Claim the folder until `unlock` or the end of this process, however it ends; clear what the dead have left.

        Raises:
            RunError: another process trains into it.
        """
        with self.writing(self.path / _LOCK):
            # Neither waits where a pipe has the lock's name.
            lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BaseException as error:
                os.close(lock)
                if isinstance(error, BlockingIOError):
                    raise RunError(
                        f"One process at a time trains into a run folder, but {self.path} is in use; wait for the "
                        "other, or give another folder with --out. Several that share a run are started by torchrun."
                    ) from error
                raise
            self._lock = lock
            clear_partials(self.path)
            checkpoints.tidy(self.checkpoints)

    def unlock(self) -> None:
        """Let others train into the folder; does nothing where it is not locked."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def discard(self) -> None:
        """Take back a folder that is claimed, and where the run never began to train; others' files stay."""
        if self._lock is None:
            return
        self.clear()
        (self.path / _LOCK).unlink(missing_ok=True)
        self.unlock()
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def require_never_saved(self) -> None:
        """Refuse to start anew where a run came to a checkpoint that is no longer there.

        Raises:
            RunError: there are files that are written after a checkpoint alone.
        """
        left = next((path for path in (self.memory, self.evaluation) if os.path.lexists(path)), None)
        if left is not None:
            raise RunError(
                f"A run goes on from its checkpoints, but {self.checkpoints} holds none, though {left.name} shows that "
                "there were some; put them back, or remove the run folder and start the run anew."
            )

    def clear(self) -> None:
        """Delete the files of a run that never came to a checkpoint."""
        with self.writing(self.path):
            for entry in self.path.iterdir():
                if entry.name in _NAMES and entry.name != _LOCK:
                    checkpoints.remove(entry)

    @property
    def no_checkpoint(self) -> str:
        """What is said where there is nothing to go on from yet."""
        return (
            f"The run in {self.path} stopped before its first checkpoint, so there is nothing to go on from; give the "
            f"command that started it again, `unsquare train SOURCE --out {self.path}`."
        )

    @property
    def is_begun(self) -> bool:
        """Whether a run has left anything here."""
        return any(os.path.lexists(self.path / name) for name in _NAMES if name != _LOCK)

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Within the block, what the disk refuses is a RunError that says what to do.

        Raises:
            RunError: the folder is gone, the disk is full, or may not be written.
        """
        try:
            yield
        except OSError as error:
            raise RunError(self._unwritable(path, reason(error))) from error

    def _unwritable(self, path: Path, why: str) -> str:
        if self._lock is not None and not os.fstat(self._lock).st_nlink:
            return (
                f"A run folder must stay where it is while its run goes on, but {self.path} was removed or replaced; "
                "give the same command again to start anew."
            )
        return f"{path} cannot be written ({why}); free space or mend that, then give the same command again."

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
        """How far the metrics have come."""
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

    def keep_metrics_until(self, step: int, mark: Mark | None) -> str:
        """Forget the rows after a step, which a resumed run writes anew; return what is lost of those before."""
        try:
            words = self._metrics.keep_until(step, mark)
        except OSError as error:
            raise RunError(f"{self.metrics} cannot be used ({reason(error)}); move it away.") from error
        return f"{self.metrics} has changed: {words}; no weight depends on it, so the run goes on." if words else ""

    def read_config(self) -> str:
        """The text of the settings.

        Raises:
            RunError: it cannot be read.
        """
        return read_text(self.config, "mend it")

    def write_config(self, text: str) -> None:
        """Write the settings whole."""
        with self.writing(self.config):
            write_text(self.config, text)

    def write_json(self, path: Path, value: Any) -> None:
        """Write a JSON object whole, with a checksum."""
        with self.writing(path):
            write_text(path, with_checksum(json.dumps(value, indent=1)) + os.linesep)

    def read_limits(self, remedy: str = ANEW) -> RunLimits:
        """What the run's plans count on.

        Raises:
            RunError: `models.json` is missing or not as its schema says.
        """
        return RunLimits.from_dict(self.read_json(self.models, RunLimits, remedy))

    def read_json(self, path: Path, schema: type[Any], remedy: str = ANEW) -> dict[str, Any]:
        """Read one of the run's JSON files.

        Raises:
            RunError: it is missing or not as its schema says.
        """
        return read_json(path, schema, remedy)
