"""The run folder: what a run leaves behind, written so that a power cut at any moment loses little."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any

from unsquare.errors import RunError
from unsquare.files import write_text

_LOCK = "run.lock"
_NAMES = {
    *("config.toml", "index.parquet", "models.json", "plan.json", "metrics.jsonl", "memory.parquet"),
    *("evaluation.parquet", "profile.json", "report.html", "checkpoints", _LOCK),
}


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
        self._lock: IO[str] | None = None
        self._made = False

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """A new run folder; it may exist, but must be empty, or hold a run that never came to a checkpoint.

        Raises:
            RunError: the folder holds something, or cannot be written.
        """
        try:
            run = cls(path)
            run._made = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            if any(entry.name not in _NAMES for entry in path.iterdir()):
                raise RunError(
                    f"A run needs a folder of its own, but {path} is not empty; give another one with --out."
                )
            if any(run.checkpoints.glob("[!.]*")):
                raise RunError(
                    f"A run needs a folder of its own, but {path} is not empty; "
                    f"`unsquare train --resume {path}` goes on with the run that is there."
                )
            run.lock()
            run._clear()  # what a run left that ended before its first checkpoint
        except OSError as error:
            raise RunError(
                f"The run folder {path} cannot be written ({error.strerror}); give another with --out."
            ) from error
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a run that was started.

        Raises:
            RunError: there is no run there.
        """
        run = cls(path)
        if not run.config.is_file():
            raise RunError(f"A run folder holds a config.toml, but {path} does not; give the folder that --out named.")
        return run

    def lock(self) -> None:
        """Claim the folder until `unlock` or the end of this process, however it ends.

        Raises:
            RunError: another process trains into it.
        """
        try:
            file = (self.path / _LOCK).open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BaseException:
                file.close()
                raise
        except BlockingIOError as error:
            raise RunError(
                f"One process at a time trains into a run folder, but {self.path} is in use; wait for the other, or "
                "give another folder with --out."
            ) from error
        except OSError as error:
            raise RunError(f"The run folder {self.path} cannot be written ({error.strerror}); give another.") from error
        self._lock = file

    def unlock(self) -> None:
        """Let others train into the folder; does nothing where it is not locked."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def discard(self) -> None:
        """Take back a folder that `create` claimed, where the run never began to train."""
        if self._lock is None:
            return
        self._clear()
        (self.path / _LOCK).unlink(missing_ok=True)
        self.unlock()
        if self._made:
            self.path.rmdir()

    def _clear(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != _LOCK:
                entry.unlink()

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a row to the metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All rows; a last line that a crash cut short is left out."""
        rows = []
        if self.metrics.is_file():
            for line in self.metrics.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError:
                    break
        return rows

    def keep_metrics_until(self, step: int) -> list[dict[str, Any]]:
        """Forget the rows after a step, which a resumed run writes anew; return those kept."""
        kept = [row for row in self.read_metrics() if row["step"] <= step and row["kind"] != "final"]
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))
        return kept

    def read_config(self) -> str:
        """The text of the settings.

        Raises:
            RunError: it cannot be read.
        """
        try:
            return self.config.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise RunError(f"The run needs {self.config}, but it cannot be read ({error}); mend it.") from error

    def write_json(self, path: Path, value: Any) -> None:
        """Write a JSON file whole."""
        write_text(path, json.dumps(value, indent=1) + os.linesep)

    def read_json(self, path: Path) -> Any:
        """Read one of the run's JSON files.

        Raises:
            RunError: it is missing or not JSON.
        """
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"The run needs {path}, but it cannot be read ({error}); start the run anew.") from error
