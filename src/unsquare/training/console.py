"""What a run prints: a line per epoch, and a progress bar in between on a terminal.

Everything goes to standard error, so that standard output has results only.
"""

from __future__ import annotations

import warnings
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from unsquare.progress import Progress as ProgressCallback
from unsquare.training.metrics import Evaluation


class Console:
    """Prints the progress of a run.

    Args:
        quiet: print nothing, as on all ranks but the first.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._rich = RichConsole(stderr=True, quiet=quiet, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._rows: list[dict[str, Any]] = []
        self._epochs = 0
        self._size = ""

    def say(self, text: str) -> None:
        """Print a line."""
        self._rich.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Give a warning, which is shown even if nothing else is printed: a Python warning, a line on the command line.

        An empty text gives none.
        """
        if text:
            self.stop()
            warnings.warn(text, stacklevel=2)

    def start_epoch(self, epoch: int, epochs: int, num_steps: int, first_step: int, size: str = "") -> None:
        """Start the bar of an epoch, at `first_step` of its steps; `size` is that of its pictures where they grow."""
        self._rows, self._epochs, self._size = [], epochs, size and f"at {size}  "
        self._start_bar(f"epoch {epoch + 1}/{epochs}", num_steps, first_step)

    def finish_step(self, row: dict[str, Any]) -> None:
        """Advance the bar by a step; `row` is the step's row of the metrics."""
        self._rows.append(row)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, description=f"epoch {row['epoch']:.2f} loss {row['loss']:.3f}")

    def finish_epoch(self, epoch: int, evaluation: Evaluation | None) -> None:
        """Print the line of an epoch that is trained and validated; None where nothing is held out."""
        self.stop()
        rows = self._rows
        images = sum(row["num_images"] for row in rows) or 1
        seconds = sum(row["step_s"] for row in rows) or 1.0
        real = sum(row["real_pixels"] for row in rows) or 1
        computed = sum(row["computed_pixels"] for row in rows)
        score = "mae" if any("mae" in row for row in rows) else "accuracy"
        self.say(
            f"epoch {epoch}/{self._epochs}  {self._size}"
            f"loss {sum(row['loss'] * row['num_images'] for row in rows) / images:.3f}  "
            f"{score} {sum(row[score] * row['num_images'] for row in rows) / images:.3f}  "
            f"{_validated(evaluation)}|  {real / seconds / 1e6:.2f} MP/s  padding {computed / real - 1:.1%}  "
            f"data wait {sum(row['data_wait_s'] for row in rows) / seconds:.0%}"
        )

    def progress(self, what: str) -> ProgressCallback:
        """A callback that shows how far a pass over images is."""
        self.stop()

        def show(done: int, total: int) -> None:
            if self._bar is None:
                self._start_bar(what, total, 0)
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, completed=done)
            if done == total:
                self.stop()

        return show

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start_bar(self, what: str, total: int, done: int) -> None:
        if not self._rich.is_terminal or self._rich.quiet:
            return
        self.stop()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._rich, transient=True)
        self._task = self._bar.add_task(what, total=total, completed=done)
        self._bar.start()


def _validated(evaluation: Evaluation | None) -> str:
    """The part of an epoch's line on val; empty where nothing is held out."""
    if evaluation is None:
        return ""
    return f"val loss {evaluation.loss:.3f}  {evaluation.describe()}  "
