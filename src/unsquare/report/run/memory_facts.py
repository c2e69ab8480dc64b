"""What is known of a run's memory: the strategies that were measured, and the micro-batches that were run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unsquare.report.kit.statistics import FloatArray
from unsquare.runs.memory_profile import MemoryProfile
from unsquare.runs.rows import StepRow

FAR = 2.5
"""A budget so many times the highest peak is not drawn beside it."""


class MicroBatches(NamedTuple):
    """Micro-batches that were run and measured, (M,) each."""

    images: FloatArray
    pixels: FloatArray
    """Computed pixels."""
    peak_bytes: FloatArray
    strategies: npt.NDArray[np.str_]
    """Name of the strategy by which each was run."""

    @classmethod
    def of(cls, steps: Sequence[StepRow]) -> MicroBatches:
        """Those of a run's steps."""
        return cls.of_rows([each for row in steps for each in row.measured])

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[Any]]) -> MicroBatches:
        """From rows of images, height, width, peak bytes, and the strategy's name."""
        numbers = np.array([row[:4] for row in rows], dtype=np.float64).reshape(-1, 4)
        names = np.array([str(row[4]) for row in rows], dtype=np.str_)
        return cls(numbers[:, 0], numbers[:, :3].prod(axis=1), numbers[:, 3], names)

    @property
    def new_peaks(self) -> npt.NDArray[np.bool_]:
        """Whether each took a hundredth more than any before it, (M,)."""
        before = np.maximum.accumulate(np.concatenate([[-np.inf], self.peak_bytes]))[:-1]
        return self.peak_bytes > 1.01 * before


def highest_bytes(profile: MemoryProfile, batches: MicroBatches) -> float:
    """The highest peak of all micro-batches and probes."""
    probed = [float(probe.peak_bytes) for each in profile.measured for probe in each.probes]
    return max(float(batches.peak_bytes.max(initial=1.0)), *probed, 1.0)


def budget_is_far(profile: MemoryProfile, batches: MicroBatches) -> bool:
    """Whether the budget is so high above every peak that they could not be told apart beside it."""
    return profile.budget_bytes >= FAR * highest_bytes(profile, batches)


def predicted_bytes(profile: MemoryProfile, batches: MicroBatches) -> FloatArray:
    """What each micro-batch was predicted to take, (M,); NaN where its strategy was not measured."""
    predicted = np.full(len(batches.pixels), np.nan)
    # Several strategies may have one name; a micro-batch takes the first that holds it, else the last.
    for each in profile.measured:
        there = batches.strategies == each.name
        there &= np.isnan(predicted) | (predicted > profile.usable_bytes)
        predicted[there] = profile.bound_bytes(each, batches.pixels[there], batches.images[there])
    return predicted
