"""What is known of a run's memory: measured strategies, the micro-batches that were run, the highest peak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unsquare.report.record import Floats, MemoryTrace, Row
from unsquare.runs.memory_profile import MemoryProfile
from unsquare.shapes import Sizes

FAR = 2.5
"""A budget so many times the highest peak is not drawn beside it."""
CLOSE_UP_S = 20.0
_CLOSE_UP_STEPS = 2
"""Steps before the one of the highest peak, and after it."""
_CLOSE_UP_SAMPLES = 20
"""Samples before the highest and after it, at the least: long runs are sampled seldom."""

_ORDER = {"": 0, "data": 1, "forward": 2, "backward": 3, "update": 4}
"""A phase that comes before the last one in this order begins another micro-batch."""


class MicroBatches(NamedTuple):
    """Micro-batches that were run and measured, (M,) each."""

    images: Floats
    pixels: Floats
    """Computed pixels."""
    peak_bytes: Floats
    strategies: npt.NDArray[np.str_]
    """Name of the strategy by which each was run."""

    @classmethod
    def of(cls, steps: Sequence[Row]) -> MicroBatches:
        """Those of a run's steps."""
        return cls.of_rows([each for row in steps for each in row.get("measured") or ()])

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[Any]]) -> MicroBatches:
        """From rows of images, height, width, peak bytes, and the strategy's name."""
        numbers = np.array([row[:4] for row in rows], dtype=np.float64).reshape(-1, 4)
        names = np.array([str(row[4]) for row in rows], dtype=np.str_)
        return cls(numbers[:, 0], numbers[:, :3].prod(axis=1), numbers[:, 3], names)


def highest_bytes(profile: MemoryProfile, batches: MicroBatches) -> float:
    """The highest peak of all micro-batches and probes."""
    probed = [float(probe.peak_bytes) for each in profile.measured for probe in each.probes]
    return max(float(batches.peak_bytes.max(initial=1.0)), *probed, 1.0)


def budget_is_far(profile: MemoryProfile, batches: MicroBatches) -> bool:
    """Whether the budget is so high above every peak that they could not be told apart beside it."""
    return profile.budget_bytes >= FAR * highest_bytes(profile, batches)


def predicted_bytes(profile: MemoryProfile, batches: MicroBatches) -> Floats:
    """What each micro-batch was predicted to take, (M,); NaN where its strategy was not measured."""
    predicted = np.full(len(batches.pixels), np.nan)
    # Several strategies may have one name; a micro-batch takes the first that holds it, else the last.
    for each in profile.measured:
        there = batches.strategies == each.name
        there &= np.isnan(predicted) | (predicted > profile.usable_bytes)
        predicted[there] = profile.bound_bytes(each, batches.pixels[there], batches.images[there])
    return predicted


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

    time_s: Floats
    used_bytes: Floats
    phases: list[Stretch]
    micro_batches: list[Stretch]
    peak: Stretch
    """What was done at the highest."""


def close_up(trace: MemoryTrace, steps: Sequence[Row]) -> CloseUp | None:
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


def _bounds(time_s: Floats, at: int, steps: Sequence[Row]) -> tuple[int, int]:
    """The first sample to show, and the one after the last."""
    peak_s = float(time_s[at])
    start_s, end_s = peak_s - CLOSE_UP_S / 2, peak_s + CLOSE_UP_S / 2
    ends = np.array([float(row["time_s"]) for row in steps])
    if len(ends) and peak_s <= ends[-1]:
        number = int(np.searchsorted(ends, peak_s))
        first, last = max(number - _CLOSE_UP_STEPS, 0), min(number + _CLOSE_UP_STEPS, len(steps) - 1)
        first_s = ends[first] - float(steps[first].get("step_s") or 0)
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


def _reaches(time_s: Floats) -> Floats:
    """From when to when each sample stands, (samples, 2): half way to its neighbours, but not far into a gap."""
    usual = np.median(np.diff(time_s))
    middle = (time_s[1:] + time_s[:-1]) / 2
    before, after = np.concatenate([[-np.inf], middle]), np.concatenate([middle, [np.inf]])
    return np.stack([np.maximum(before, time_s - usual), np.minimum(after, time_s + usual)], axis=1)


def _stretches(
    reaches: Floats,
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
