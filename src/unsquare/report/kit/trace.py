"""Memory sampled over a run or a profile, and the moments around its highest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unsquare.report.kit.statistics import FloatArray
from unsquare.runs.rows import StepRow
from unsquare.shapes import Sizes

CLOSE_UP_S = 20.0
_CLOSE_UP_STEPS = 2
"""Steps before the one of the highest peak, and after it."""
_CLOSE_UP_SAMPLES = 20
"""Samples before the highest and after it, at the least: long runs are sampled seldom."""

_ORDER = {"": 0, "data": 1, "forward": 2, "backward": 3, "update": 4}
"""A phase that comes before the last one in this order begins another micro-batch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryTrace:
    """Memory sampled over the run."""

    time_s: FloatArray
    used_bytes: FloatArray
    """Of the device's allocator where there is one, else of the process."""
    allocated_bytes: FloatArray
    """Blocks in use; NaN where unknown."""
    sizes: Sizes
    """Canvas of the micro-batch at work, (N, 2); 0 between two."""
    phase: npt.NDArray[np.str_]
    """data, forward, backward, update, or nothing of these."""
    images: npt.NDArray[np.int64]
    """Images of the micro-batch at work, 0 between two."""
    on_device: bool


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


def _floats(column: list[float | None]) -> FloatArray:
    return np.array([np.nan if value is None else value for value in column], dtype=np.float64)


class Stretch(NamedTuple):
    """A phase, or a micro-batch, from one time to another."""

    start_s: float
    end_s: float
    phase: str = ""
    images: int = 0
    canvas: tuple[int, int] = (0, 0)
    """Height and width."""


class CloseUp(NamedTuple):
    """The samples around the highest; times are seconds from it."""

    time_s: FloatArray
    used_bytes: FloatArray
    phases: list[Stretch]
    micro_batches: list[Stretch]
    peak: Stretch
    """What was done at the highest."""


def close_up(trace: MemoryTrace, steps: Sequence[StepRow]) -> CloseUp | None:
    """Five steps around the highest sample, or some seconds where steps are long; None of fewer than three samples."""
    if len(trace.time_s) < 3:
        return None
    at = int(trace.used_bytes.argmax())
    low, high = _bounds(trace.time_s, at, steps)
    time_s = trace.time_s[low:high] - trace.time_s[at]
    reaches = _reaches(time_s)
    phase, images, sizes = trace.phase[low:high], trace.images[low:high], trace.sizes[low:high]
    batches = _stretches(reaches, phase, images, sizes, _other_micro_batch(phase, images, sizes))
    return CloseUp(
        time_s=time_s,
        used_bytes=trace.used_bytes[low:high],
        phases=[one for one in _stretches(reaches, phase, images, sizes, phase[1:] != phase[:-1]) if one.phase],
        micro_batches=[one for one in batches if one.images],
        peak=Stretch(0.0, 0.0, str(trace.phase[at]), int(trace.images[at]), _canvas(trace.sizes[at])),
    )


def _bounds(time_s: FloatArray, at: int, steps: Sequence[StepRow]) -> tuple[int, int]:
    """The first sample to show, and the one after the last."""
    peak_s = float(time_s[at])
    start_s, end_s = peak_s - CLOSE_UP_S / 2, peak_s + CLOSE_UP_S / 2
    ends = np.array([row.time_s for row in steps])
    if len(ends) and peak_s <= ends[-1]:
        number = int(np.searchsorted(ends, peak_s))
        first, last = max(number - _CLOSE_UP_STEPS, 0), min(number + _CLOSE_UP_STEPS, len(steps) - 1)
        first_s = ends[first] - steps[first].step_s
        start_s, end_s = max(start_s, min(first_s, peak_s)), min(end_s, ends[last])
    low, high = np.searchsorted(time_s, start_s), np.searchsorted(time_s, end_s, side="right")
    return max(0, min(int(low), at - _CLOSE_UP_SAMPLES)), min(len(time_s), max(int(high), at + _CLOSE_UP_SAMPLES + 1))


def _other_micro_batch(
    phase: npt.NDArray[np.str_], images: npt.NDArray[np.int64], sizes: Sizes
) -> npt.NDArray[np.bool_]:
    """Whether another micro-batch was at work than one sample before, (samples - 1,)."""
    order = np.array([_ORDER.get(str(one), 0) for one in phase])
    changed: npt.NDArray[np.bool_] = images[1:] != images[:-1]
    return changed | (sizes[1:] != sizes[:-1]).any(axis=1) | (order[1:] < order[:-1])


def _reaches(time_s: FloatArray) -> FloatArray:
    """From when to when each sample stands, (samples, 2): half way to its neighbors, but not far into a gap."""
    usual = np.median(np.diff(time_s))
    middle = (time_s[1:] + time_s[:-1]) / 2
    before, after = np.concatenate([[-np.inf], middle]), np.concatenate([middle, [np.inf]])
    return np.stack([np.maximum(before, time_s - usual), np.minimum(after, time_s + usual)], axis=1)


def _stretches(
    reaches: FloatArray,
    phase: npt.NDArray[np.str_],
    images: npt.NDArray[np.int64],
    sizes: Sizes,
    changes: npt.NDArray[np.bool_],
) -> list[Stretch]:
    """Samples between changes as one stretch each."""
    starts = [0, *(np.flatnonzero(changes) + 1).tolist()]
    return [
        Stretch(
            start_s=float(reaches[first, 0]),
            end_s=float(reaches[end - 1, 1]),
            phase=str(phase[first]),
            images=int(images[first]),
            canvas=_canvas(sizes[first]),
        )
        for first, end in zip(starts, [*starts[1:], len(phase)])
    ]


def _canvas(size: npt.NDArray[np.int64]) -> tuple[int, int]:
    return int(size[0]), int(size[1])
