"""Where the time of a run went, from its metrics."""

from __future__ import annotations

from collections.abc import Sequence

from unsquare.report.record import Record, Row


def total_seconds(record: Record) -> float:
    """Seconds that the run took, from the call on: its start, measuring and evaluations included."""
    clock = max((float(row["time_s"]) for row in (*record.steps, *record.evals)), default=0.0)
    final = float(record.final.get("seconds") or 0) if record.final else 0.0
    return record.start_s + max(clock + final, step_seconds(record.steps) + evaluation_seconds(record))


def evaluation_seconds(record: Record) -> float:
    """Seconds of all evaluations."""
    rows = [*record.evals, record.final] if record.final else record.evals
    return sum(float(row.get("seconds") or 0) for row in rows)


def data_wait_share(steps: Sequence[Row]) -> float:
    """Part of the steps' time spent waiting for decoded images."""
    spent = step_seconds(steps)
    return min(1.0, data_wait_seconds(steps) / spent) if spent else 0.0


def step_seconds(steps: Sequence[Row]) -> float:
    """Seconds of all steps, waiting included."""
    return sum(float(row.get("step_s") or 0) for row in steps)


def data_wait_seconds(steps: Sequence[Row]) -> float:
    """Seconds of all steps spent waiting for decoded images."""
    return sum(float(row.get("data_wait_s") or 0) for row in steps)


def pixels_per_second(steps: Sequence[Row]) -> float:
    """Real pixels trained on in a second of the steps' time; 0 where unknown."""
    spent = step_seconds(steps)
    return sum(float(row.get("real_pixels") or 0) for row in steps) / spent if spent else 0.0


def time_parts(record: Record) -> list[tuple[str, float]]:
    """Seconds of starting, computing, waiting for data, evaluating and everything else: together the whole run."""
    waiting = data_wait_seconds(record.steps)
    computing = max(0.0, step_seconds(record.steps) - waiting)
    evaluating = evaluation_seconds(record)
    rest = max(0.0, total_seconds(record) - record.start_s - computing - waiting - evaluating)
    return [
        ("start and measuring", record.start_s),
        ("computing", computing),
        ("waiting for data", waiting),
        ("evaluating", evaluating),
        ("checkpoints and the rest", rest),
    ]
