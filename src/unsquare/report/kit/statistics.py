"""The few statistics that pages show."""

from __future__ import annotations

from math import sqrt

import numpy as np
import numpy.typing as npt

from unsquare.shapes import Sizes

FloatArray = npt.NDArray[np.float64]

_Z = 1.959964
"""Two-sided 95 % of the normal distribution."""


def wilson_interval(num_correct: int, num_images: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson, 1927): inside [0, 1], and right for few images too."""
    rate, z2 = num_correct / num_images, _Z * _Z
    center = (rate + z2 / (2 * num_images)) / (1 + z2 / num_images)
    half = _Z * sqrt(rate * (1 - rate) / num_images + z2 / (4 * num_images**2)) / (1 + z2 / num_images)
    # At 0 and 1 the interval ends on the rate itself, which rounding must not pass.
    return max(0.0, min(rate, center - half)), min(1.0, max(rate, center + half))


def random_batch_overhead(sizes: Sizes, batch_size: int, seed: int = 0) -> float:
    """The padding overhead of shuffled batches, each padded to its largest height and width.

    Simulated over one epoch; as many whole batches as there are, or the one that there is.
    """
    order = np.random.default_rng(seed).permutation(len(sizes))
    num_batches = max(1, len(sizes) // batch_size)
    batches = np.array_split(sizes[order], num_batches)
    computed = sum(int(batch.max(axis=0).prod()) * len(batch) for batch in batches)
    return computed / int(sizes.prod(axis=1).sum()) - 1


def smooth(values: FloatArray, span: int) -> FloatArray:
    """The mean over a centered window of `span` values, shorter at both ends."""
    span = max(1, min(span, len(values)))
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low = np.maximum(at - span // 2, 0)
    high = np.minimum(at - span // 2 + span, len(values))
    return (total[high] - total[low]) / (high - low)
