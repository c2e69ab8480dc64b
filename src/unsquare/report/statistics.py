"""The few statistics that the page shows."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unsquare.report.units import aspect, pixels
from unsquare.shapes import Sizes

_Z = 1.959964
"""Two-sided 95 % of the normal distribution."""

_ASPECT_BOUNDS = (0.0, 0.5, 0.8, 1.25, 2.0, np.inf)
_ASPECT_NAMES = ("very tall", "tall", "near square", "wide", "very wide")


class Group(NamedTuple):
    """The accuracy of a part of the images."""

    name: str
    bounds: str
    num_images: int
    num_correct: int

    @property
    def accuracy(self) -> float:
        """Part that was classified correctly."""
        return self.num_correct / self.num_images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy."""
        return wilson_interval(self.num_correct, self.num_images)


def wilson_interval(num_correct: int, num_images: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson, 1927): inside [0, 1], and right for few images too."""
    rate, z2 = num_correct / num_images, _Z * _Z
    centre = (rate + z2 / (2 * num_images)) / (1 + z2 / num_images)
    half = _Z * sqrt(rate * (1 - rate) / num_images + z2 / (4 * num_images**2)) / (1 + z2 / num_images)
    # At 0 and 1 the interval ends on the rate itself, which rounding must not pass.
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))


def random_batch_overhead(sizes: Sizes, batch_size: int, seed: int = 0) -> float:
    """The padding overhead of shuffled batches, each padded to its largest height and width.

    Simulated over one epoch; as many whole batches as there are, or the one that there is.
    """
    order = np.random.default_rng(seed).permutation(len(sizes))
    num_batches = max(1, len(sizes) // batch_size)
    batches = np.array_split(sizes[order], num_batches)
    computed = sum(int(batch.max(axis=0).prod()) * len(batch) for batch in batches)
    return computed / int(sizes.prod(axis=1).sum()) - 1


def confusion(labels: list[str], predicted: list[str], classes: list[str]) -> npt.NDArray[np.int64]:
    """Counts of (label, predicted), (C, C)."""
    position = {name: number for number, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, ([position[name] for name in labels], [position[name] for name in predicted]), 1)
    return counts


def size_groups(sizes: Sizes, correct: npt.NDArray[np.bool_]) -> list[Group]:
    """Accuracy by quartile of the pixel count, smallest first; quartiles that coincide are one."""
    count = sizes.prod(axis=1)
    bounds = np.unique(np.quantile(count, [0, 0.25, 0.5, 0.75, 1]))
    part = np.clip(np.searchsorted(bounds, count, side="right") - 1, 0, max(len(bounds) - 2, 0))
    names = ("smallest quarter", "second quarter", "third quarter", "largest quarter")
    groups = []
    for number in range(max(len(bounds) - 1, 1)):
        inside = part == number
        name = names[number] if len(bounds) == 5 else f"group {number + 1}"
        text = f"{pixels(count[inside].min())} to {pixels(count[inside].max())}" if inside.any() else ""
        groups.append(Group(name, text, int(inside.sum()), int(correct[inside].sum())))
    return [group for group in groups if group.num_images]


def aspect_groups(sizes: Sizes, correct: npt.NDArray[np.bool_]) -> list[Group]:
    """Accuracy by aspect ratio, tallest first; groups without images are left out."""
    ratio = sizes[:, 1] / sizes[:, 0]
    groups = []
    for name, low, high in zip(_ASPECT_NAMES, _ASPECT_BOUNDS, _ASPECT_BOUNDS[1:]):
        inside = (ratio >= low) & (ratio < high)
        if low == 0:
            text = f"below {aspect(high, 3)}"
        elif np.isinf(high):
            text = f"from {aspect(low, 3)}"
        else:
            text = f"{aspect(low, 3)} to {aspect(high, 3)}"
        groups.append(Group(name, text, int(inside.sum()), int(correct[inside].sum())))
    return [group for group in groups if group.num_images]


def smooth(values: npt.NDArray[np.float64], span: int) -> npt.NDArray[np.float64]:
    """The mean over a centred window of `span` values, shorter at both ends."""
    span = max(1, min(span, len(values)))
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low = np.maximum(at - span // 2, 0)
    high = np.minimum(at - span // 2 + span, len(values))
    return (total[high] - total[low]) / (high - low)
