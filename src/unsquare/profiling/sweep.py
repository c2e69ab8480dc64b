"""Where memory goes: how large a batch fits, and which layers and kinds of memory make up the peak.

The network runs in a process of its own (`worker`), which may run out of memory or be killed. The batch starts at one
image and doubles every three steps until it fails; then bisection finds the largest batch that fits.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unsquare.errors import BudgetError, ConfigError
from unsquare.memory.amounts import format_bytes
from unsquare.memory.model import MemoryModel
from unsquare.plan.config import Limits
from unsquare.profiling.worker import STEPS_EACH, Subject, SubjectDied
from unsquare.progress import Say
from unsquare.runs.checkpoints import last_step
from unsquare.runs.folder import RunFolder
from unsquare.runs.schemas import (
    AttributionRow,
    ComparedPlan,
    LayerRow,
    NetworkProfile,
    PlanComparison,
    PlanFile,
    PlannedMemory,
    SweepLine,
    SweepSection,
    WatchColumns,
)
from unsquare.runs.tables import read_index, read_memory
from unsquare.shapes import Shape
from unsquare.training.config import TrainConfig
from unsquare.training.other_run import settings_of_run

_ANOTHER = "give the folder of another run"
"""The advice where a file of a run is damaged: its weights may be intact, so starting again is no advice."""
MOST_IMAGES = 4096
"""The largest batch that is tried."""
LOOKED_FOR = 16
"""The largest batch that fits is found to this fraction: one part in 16."""
ATTRIBUTED = 0.5
"""Attribution uses a batch of about this part of the largest that fits, since recording takes memory, too."""
MOST_SAMPLES = 2000
"""Samples kept of the memory trace."""


def profile_network(config: TrainConfig, num_classes: int, canvas: Shape, name: str, say: Say) -> NetworkProfile:
    """What a sweep of the batch size shows of a network, and what holds the peak.

    Args:
        config: the network, its optimizer, the device and the budget.
        num_classes: of the head.
        canvas: the canvas of its micro-batches.
        name: what is profiled, as it is shown.
        say: told about progress.

    Returns:
        The sweep, the attribution of a batch, and memory against time.

    Raises:
        BudgetError: not even one image fits.
    """
    say(f"Measuring {name} in a separate process ...")
    with _Bench(config, num_classes, canvas).open() as bench:
        facts = bench.facts
        say(f"{name} on {facts['device']}, {facts['precision']}, canvases of {canvas}: now doubling ...")
        rows, failed, failure = _sweep(bench, say)
        if not rows:
            raise BudgetError(
                f"The budget of {format_bytes(facts['budget_bytes'])} is too small for the process and one image of "
                f"{canvas} ({failure}); give more with --memory, smaller images, or --strategy tile."
            )
        largest = max(row.images for row in rows)
        attribution = _attribution(bench, max(1, int(largest * ATTRIBUTED)))
        watch = bench.trace()
    strategy = facts["strategy"]
    return NetworkProfile(
        subject=name,
        backbone=config.model.backbone,
        device=facts["device"],
        precision=facts["precision"],
        budget_bytes=facts["budget_bytes"],
        sweep=SweepSection(
            canvas=canvas,
            strategy=strategy["name"],
            steps_each=STEPS_EACH,
            memory=MemoryModel(**strategy["memory"]),
            limit_bytes=facts["budget_bytes"],
            rows=tuple(sorted(rows, key=lambda row: row.images)),
            failed_images=failed,
            failure=failure,
            largest_images=largest,
            predicted_images=facts["predicted_images"],
        ),
        attribution=attribution,
        watch=watch,
    )


def subject_of_run(path: Path) -> tuple[TrainConfig, int, Shape]:
    """The settings of a run, its number of classes, and the canvas of its median micro-batch.

    Raises:
        RunError: it is not a run, or has no plan yet.
    """
    run = RunFolder.open(path)
    config = settings_of_run(run)
    plan = run.read_json(run.plan, PlanFile, _ANOTHER)
    canvases = np.array(plan["micro_batches"])[:, 1:]
    height, width = canvases[np.argsort(canvases.prod(axis=1), kind="stable")[len(canvases) // 2]]
    return config, len(read_index(run.index, _ANOTHER).classes), Shape(int(height), int(width))


def memory_of_run(path: Path) -> PlannedMemory | None:
    """What a run's plans were told that training takes; None where it was pinned, or is not known yet."""
    run = RunFolder.open(path)
    profile = run.read_limits(_ANOTHER).training if run.models.is_file() else None
    if profile is None:
        return None
    return PlannedMemory(
        budget_bytes=profile.budget_bytes,
        reserved_bytes=profile.reserved_bytes,
        keeps_heap=profile.heap == "keep",
        held_pixels=profile.most_pixels[0],
        most_images=profile.probe_range.most_images,
    )


def compare_plans(before: Path, after: Path) -> PlanComparison:
    """What the plans of two runs ask of the memory, side by side.

    Raises:
        RunError: one is not a run, or has no plan yet.
    """
    return PlanComparison(plans=(_compared(before), _compared(after)))


def _compared(path: Path) -> ComparedPlan:
    run = RunFolder.open(path)
    plan, profile = run.read_json(run.plan, PlanFile, _ANOTHER), run.read_limits(_ANOTHER).training
    limits = Limits.from_dict(plan["limits"])
    batches = np.array(plan["micro_batches"])
    pixels = batches.prod(axis=1)
    metrics = run.read_metrics()
    if lost := metrics.words(last_step(run.checkpoints)):
        warnings.warn(f"Not all of {run.metrics} is there: {lost}.", stacklevel=2)
    predicted: list[float] | None = None
    if profile is not None:
        predicted = [
            int(profile.bound_bytes(profile.strategy_for(int(each)), int(each), int(count)))
            for each, count in zip(pixels, batches[:, 0])
        ]
    return ComparedPlan(
        name=path.resolve().name,
        budget_bytes=None if profile is None else profile.budget_bytes,
        ledger=plan["ledger"],
        micro_batches=plan["micro_batches"],
        predicted_bytes=predicted,
        measured_bytes=[each for row in metrics.rows for each in row.to_dict().get("measured", ())],
        fills=limits.fill(pixels).tolist(),
        seconds=plan["ledger"].get("predicted_s"),
    )


class _Bench:
    """A subject that is started again after it fails or dies."""

    def __init__(self, config: TrainConfig, num_classes: int, canvas: Shape) -> None:
        self._start = lambda trace: Subject(config, num_classes, canvas, trace)
        self._subject: Subject | None = None
        self._folder = Path()
        self._starts = 0

    @contextmanager
    def open(self) -> Iterator[_Bench]:
        """The bench with a subject running, and a folder for traces."""
        with tempfile.TemporaryDirectory() as folder:
            self._folder = Path(folder)
            try:
                self.facts = self._alive().facts
                yield self
            finally:
                self._stop()

    def ask(self, do: str, images: int) -> dict[str, Any]:
        """The answer, or the failure if it died; a subject that failed is replaced, since libraries leave memory
        behind."""
        try:
            answer = self._alive().ask({"do": do, "images": images})
        except SubjectDied as death:
            answer = {"images": images, "failure": str(death)}
        if "failure" in answer:
            self._stop()
        return answer

    def trace(self) -> WatchColumns | None:
        """Memory against time of the first subject: the doubling."""
        path = self._folder / "1.parquet"
        if not path.is_file():
            return None
        table = read_memory(path)
        stride = max(1, -(-table.num_rows // MOST_SAMPLES))
        return WatchColumns(**{name: table[name].to_pylist()[::stride] for name in table.column_names})

    def _alive(self) -> Subject:
        if self._subject is None:
            self._starts += 1
            try:
                self._subject = self._start(self._folder / f"{self._starts}.parquet")
            except SubjectDied as death:
                raise ConfigError(
                    f"The network does not run with a single image ({death}); give more with --memory."
                ) from death
        return self._subject

    def _stop(self) -> None:
        if self._subject is not None:
            self._subject.close()
            self._subject = None


def _sweep(bench: _Bench, say: Say) -> tuple[list[SweepLine], int | None, str | None]:
    """Rows of what fits, and the smallest batch that does not, with the reason."""
    rows: list[SweepLine] = []
    failed, failure = None, None
    images = 1
    while images <= MOST_IMAGES:
        answer = bench.ask("steps", images)
        if _fails(bench, answer):
            failed, failure = images, answer.get("failure") or "It took more than the budget"
            say(_unfit(images))
            break
        rows.append(SweepLine(**answer))
        say(_words(rows[-1]))
        images *= 2
    least = rows[-1].images if rows else 0
    most = failed
    while most is not None and rows and most - least > max(1, least // LOOKED_FOR):
        middle = (least + most) // 2
        answer = bench.ask("steps", middle)
        if _fails(bench, answer):
            most, failure = middle, answer.get("failure") or failure
            say(_unfit(middle))
        else:
            least = middle
            rows.append(SweepLine(**answer))
            say(_words(rows[-1]))
    return rows, most, failure


def _fails(bench: _Bench, answer: dict[str, Any]) -> bool:
    return "failure" in answer or answer["peak_bytes"] > bench.facts["budget_bytes"]


def _words(row: SweepLine) -> str:
    off = row.predicted_bytes / row.peak_bytes - 1
    images = "1 image" if row.images == 1 else f"{row.images} images"
    return f"{images}: {format_bytes(int(row.peak_bytes))}, {off:+.1%} predicted, {row.seconds:.2f} s"


def _unfit(images: int) -> str:
    return "1 image does not fit." if images == 1 else f"{images} images do not fit."


def _attribution(bench: _Bench, images: int) -> AttributionRow | None:
    while images:
        answer = bench.ask("attribute", images)
        if "failure" not in answer:
            layers = tuple(LayerRow(**layer) for layer in answer["layers"])
            kinds = tuple((name, num_bytes) for name, num_bytes in answer["kinds"])
            return AttributionRow(**{**answer, "canvas": tuple(answer["canvas"]), "kinds": kinds, "layers": layers})
        images //= 2
    return None
