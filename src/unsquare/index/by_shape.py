"""How well width and height alone tell the class: nearest neighbors on shapes, without a pixel.

Where cameras, formats or museums go with classes, shapes leak the label, and an accuracy has to be read beside what
they alone reach. Neighbors are searched by brute force over distinct shapes, which is exact and needs no more than
NumPy; of very large sets a sample is taken, so that 500,000 images take as long as 24,000: some two seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unsquare.index.table import ShapeIndex
from unsquare.index.units import hash_of

NEIGHBORS = (1, 3, 5, 9, 15, 25, 41)
"""The numbers of neighbors that are tried."""
MOST_KNOWN, MOST_ASKED = 20_000, 4_000
"""Most images to learn from and to judge; of 4,000 the 95 % interval is 1.5 points to either side."""
_TRIED_PART = 0.2
"""Part of what is learned from that chooses the number of neighbors."""
_BLOCK = 1 << 22
"""Most distances, or votes, at a time."""

_Classes = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class ShapeOnly:
    """What width and height alone reach on some images."""

    accuracy: float
    mean_per_class_accuracy: float
    """Mean of the accuracies of all classes that occur."""
    neighbors: int
    """The number that suits the images to learn from."""
    num_asked: int
    """Images that were judged: all, or a sample."""
    chance: float
    """Accuracy of always answering the class that is most frequent among the images to learn from."""


def shape_only(known: ShapeIndex, asked: ShapeIndex) -> ShapeOnly | None:
    """Predict the class of images from their width and height by the nearest shapes of others.

    The number of neighbors is chosen on a part of the known images, never on those that are judged.

    Args:
        known: the images to learn from, usually those of the train split.
        asked: the images to judge.

    Returns:
        What that reaches; None where there is nothing to learn from or to judge, or no choice of classes.
    """
    known, asked = _sample(known, MOST_KNOWN), _sample(asked, MOST_ASKED)
    if not len(asked) or len(np.unique(known.labels)) < 2:
        return None
    neighbors = _best_number(known)
    predicted = predict_by_shape(known, asked, (neighbors,))[neighbors]
    right = predicted == asked.labels
    per_class = [right[asked.labels == label].mean() for label in np.unique(asked.labels)]
    most_frequent = np.bincount(known.labels).argmax()
    return ShapeOnly(
        accuracy=float(right.mean()),
        mean_per_class_accuracy=float(np.mean(per_class)),
        neighbors=neighbors,
        num_asked=len(asked),
        chance=float((asked.labels == most_frequent).mean()),
    )


def predict_by_shape(known: ShapeIndex, asked: ShapeIndex, numbers: tuple[int, ...]) -> dict[int, _Classes]:
    """The class of each image by the vote of so many nearest others in log height and log width, for each number.

    All images as near as the last neighbor vote, too, as those of one shape do; of equal votes the first class wins.
    """
    shapes, at = np.unique(known.sizes, axis=0, return_inverse=True)
    votes = _Votes(at.reshape(-1), known.labels, len(shapes))
    wanted, back = np.unique(asked.sizes, axis=0, return_inverse=True)
    points, rows = np.log(shapes.astype(np.float64)), np.log(wanted.astype(np.float64))
    most = min(max(numbers), len(shapes))
    found: dict[int, list[_Classes]] = {number: [] for number in numbers}
    for start in range(0, len(rows), step := max(1, _BLOCK // max(len(shapes), len(known.classes)))):
        part = rows[start : start + step]
        distance = np.square(part[:, :1] - points[:, 0]) + np.square(part[:, 1:] - points[:, 1])
        near = np.sort(np.argpartition(distance, most - 1, axis=1)[:, :most], axis=1)
        order = np.argsort(np.take_along_axis(distance, near, axis=1), axis=1, kind="stable")
        near = np.take_along_axis(near, order, axis=1)
        for number in numbers:
            found[number].append(votes.winners(near, number))
    return {number: np.concatenate(parts)[back.reshape(-1)] for number, parts in found.items()}


class _Votes:
    """The labels of the images of each shape.

    Args:
        shape: (N,) the shape of each image.
        labels: (N,) its label.
        num_shapes: how many shapes there are.
    """

    def __init__(self, shape: npt.NDArray[np.int64], labels: _Classes, num_shapes: int) -> None:
        self._num_classes = int(labels.max()) + 1
        pairs, self._counts = np.unique(shape * self._num_classes + labels, return_counts=True)
        self._labels = pairs % self._num_classes
        self._starts = np.searchsorted(pairs, np.arange(num_shapes + 1) * self._num_classes)
        self._images = np.bincount(shape, minlength=num_shapes)

    def winners(self, near: npt.NDArray[np.int64], number: int) -> _Classes:
        """The class with the most votes among the shapes nearest to each row, (n, m), until `number` images voted."""
        before = np.cumsum(self._images[near], axis=1) - self._images[near]
        row, column = np.nonzero(before < number)
        shapes = near[row, column]
        lengths = self._starts[shapes + 1] - self._starts[shapes]
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        entries = np.repeat(self._starts[shapes], lengths) + offsets
        cells = np.repeat(row, lengths) * self._num_classes + self._labels[entries]
        size = len(near) * self._num_classes
        votes = np.bincount(cells, weights=self._counts[entries], minlength=size)
        return votes.reshape(len(near), self._num_classes).argmax(axis=1).astype(np.int32)


def _best_number(known: ShapeIndex) -> int:
    """The number of neighbors that predicts a part of the images best from the others; of equals the largest."""
    tried = min(MOST_ASKED, round(_TRIED_PART * len(known)))
    if not tried:
        return NEIGHBORS[0]
    rest, part = known.take(np.arange(tried, len(known))), known.take(np.arange(tried))
    found = predict_by_shape(rest, part, NEIGHBORS)
    return max(NEIGHBORS, key=lambda number: (float((found[number] == part.labels).mean()), number))


def _sample(index: ShapeIndex, most: int) -> ShapeIndex:
    """The images with a label in a random order that depends on their names alone, at most so many."""
    names: list[str] = index.keys.tolist()
    rows = sorted(np.flatnonzero(index.labels >= 0).tolist(), key=lambda row: hash_of(0, names[row]))
    return index.take(np.array(rows[:most], dtype=np.int64))
