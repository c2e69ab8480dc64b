"""What a learning-rate range test found, and which rate it suggests (Smith, Cyclical Learning Rates for Training Neural
Networks, 2017, section 3.3).

The rate that is suggested is that of the steepest fall of the smoothed loss, as in Lightning. A tenth of the rate at
which the loss is lowest, fastai's older rule, is shown beside it: at the lowest loss itself the rate is too high.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from unsquare.errors import RunError

WINDOW = 0.1
"""Part of the steps over which losses are smoothed."""
SMOOTHING = 0.9
"""Weight of the earlier losses in the average that ends the test."""
DIVERGED = 4.0
"""The test ends where the average of the last losses is this many times its lowest, as in fastai and Lightning."""
CUT = 2.0
"""Losses above this many times the first ones count as that: where they explode, only that they do matters."""
SKIPPED = 0.1
"""Part of the steps at the beginning among which no rate is suggested: their smoothed losses rest on few."""
LEAST_FALL = 0.01
"""A smaller fall of the smoothed loss, as a part of it, may be noise, and suggests nothing."""
LEAST_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class RateTest:
    """The losses of training at rising learning rates.

    Example:
        >>> found = unsquare.RateTest(rates=(1e-4, 1e-3), losses=(2.0, 1.0), smoothed=(2.0, 1.5), suggested=1e-3)
        >>> found.to_dict()["suggested"]
        0.001
    """

    rates: tuple[float, ...]
    """The learning rate of each step."""
    losses: tuple[float, ...]
    """The mean loss of each step's images, before its update."""
    smoothed: tuple[float, ...]
    """Losses smoothed over the steps before and after."""
    suggested: float | None
    """The rate at which the smoothed loss falls fastest; None where it does not fall."""
    page: Path | None = None
    """The page that shows it."""

    @property
    def lowest_at(self) -> float:
        """The rate at which the smoothed loss is lowest."""
        return self.rates[int(np.argmin(self.smoothed))]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"lowest_at": self.lowest_at, "page": None if self.page is None else str(self.page)}


def rising_rates(lowest: float, highest: float, num_steps: int) -> list[float]:
    """Rates that rise by the same factor from step to step."""
    return [float(rate) for rate in np.geomspace(lowest, highest, num_steps)]


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether the last loss is not finite, or the smoothed one far above its lowest."""
    if not np.isfinite(losses[-1]):
        return True
    averages = _moving_averages(losses)
    return bool(averages[-1] > DIVERGED * averages.min())


def rate_test_of(rates: Sequence[float], losses: Sequence[float]) -> RateTest:
    """The test of steps with these rates and losses, the last of which may not be finite.

    Raises:
        RunError: there are too few steps to suggest anything.
    """
    finite = len(losses) - (not np.isfinite(losses[-1]))
    if finite < LEAST_STEPS:
        raise RunError(
            f"The loss diverged at a learning rate of {rates[len(losses) - 1]:.2g} after {len(losses)} steps, too few "
            "to suggest a rate; begin with a lower one."
        )
    tried, smoothed = np.array(rates[:finite]), _smoothed(losses[:finite])
    begin, end = int(SKIPPED * finite), int(smoothed.argmin())
    suggested = None
    if end > begin and smoothed[end] < (1 - LEAST_FALL) * smoothed[begin]:
        slopes = np.gradient(smoothed, np.log(tried))[begin : end + 1]
        suggested = float(tried[begin + int(slopes.argmin())])
    return RateTest(
        rates=tuple(tried.tolist()),
        losses=tuple(losses[:finite]),
        smoothed=tuple(smoothed.tolist()),
        suggested=suggested,
    )


def _smoothed(losses: Sequence[float]) -> npt.NDArray[np.float64]:
    """Means of medians over neighboring steps.

    The moving averages of fastai and Lightning lag behind, by a factor of several in the rate; averages over both sides
    begin to rise before the loss does, where it explodes. Medians do neither.
    """
    width = 2 * int(WINDOW * len(losses) / 2) + 1
    start = float(np.median(losses[:width]))
    return _over_neighbors(np.mean, _over_neighbors(np.median, np.minimum(losses, CUT * start), width), width)


def _over_neighbors(
    function: Callable[..., Any], values: npt.NDArray[np.float64], width: int
) -> npt.NDArray[np.float64]:
    """A function of each value and its neighbors, as many on either side; those at the ends are repeated."""
    padded = np.pad(values, width // 2, mode="edge")
    return np.asarray(function(sliding_window_view(padded, width), axis=1))


def _moving_averages(losses: Sequence[float]) -> npt.NDArray[np.float64]:
    """Exponential moving averages, corrected for their start (as in Adam)."""
    found, average = [], 0.0
    for number, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        found.append(average / (1 - SMOOTHING**number))
    return np.array(found)
