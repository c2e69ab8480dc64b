"""How often each image comes in an epoch, where images have weights.

An epoch has as many images as the dataset. Systematic sampling (Madow 1949) gives an image of weight w the whole
number of places below or above its due share N w / sum(w), by a draw of the epoch's own, so that over epochs each
comes exactly as often as its weight says, and none by luck much more often in one of them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unsquare.errors import PlanError
from unsquare.plan.draw import Order, Purpose, bits
from unsquare.plan.epoch import Positions
from unsquare.settings import received

Weights = npt.NDArray[np.float64]


def repeated(weights: npt.ArrayLike, num_images: int, seed: int, epoch: int) -> Positions:
    """Positions of the images of one epoch, (N,), ascending, each as often as it was drawn.

    Args:
        weights: weight of each image, (N,), at least 0 and not all 0.
        num_images: N.
        seed: the run's seed.
        epoch: number of the epoch.

    Raises:
        PlanError: the weights are not what they must be.
    """
    values = checked_weights(weights, num_images)
    # In a random order: else whether neighbours in the index both come would hang together.
    order = Order(seed, epoch, Purpose.REPEATS, num_images).all()
    due = np.cumsum(values[order])
    start = float(bits(seed, epoch, Purpose.REPEATS, 1, 1)[0] >> np.uint64(11)) / 2.0**53
    places = (start + np.arange(num_images)) * (due[-1] / num_images)
    return np.sort(order[np.minimum(np.searchsorted(due, places, side="right"), num_images - 1)])


def checked_weights(weights: npt.ArrayLike, num_images: int) -> Weights:
    """The weights of images as finite numbers, (N,).

    Raises:
        PlanError: they are none.
    """
    try:
        values = np.asarray(weights, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise PlanError(f"Weights must be one number for each image, but are {received(weights)}.") from error
    if values.shape != (num_images,) or not (np.isfinite(values) & (values >= 0)).all() or not values.any():
        raise PlanError(
            f"Weights must be one finite number of at least 0 for each of the {num_images:,} images, not all 0, but "
            f"have the shape {values.shape}, least {values.min(initial=np.inf)} and sum {values.sum()}."
        )
    return values


def class_weights(labels: npt.ArrayLike) -> Weights:
    """The weights that make all classes as frequent, (N,); images without a class keep the mean weight.

    Args:
        labels: class of each image, (N,), -1 where unknown.
    """
    classes = np.asarray(labels, dtype=np.int64)
    known = classes >= 0
    weights = np.ones(len(classes))
    if known.any():
        counts = np.bincount(classes[known])
        weights[known] = known.sum() / np.count_nonzero(counts) / counts[classes[known]]
    return weights
