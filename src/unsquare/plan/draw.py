"""Every random draw of a plan: the order of images and steps, quarter turns, repeats of weighted images.

Each is a pure function of (seed, epoch, purpose) and of the position asked for. Raw bits are sorted rather than passed
to `Generator.permutation`: NumPy guarantees the raw bits of a bit generator across versions, but not its
distributions, and a run may be resumed under a newer NumPy. Above a million items nothing is sorted or held: the order
is a keyed permutation, computed range by range, so that the first step of a hundred million images takes as long as
that of a thousand.

An epoch of weighted images has as many images as the dataset. Systematic sampling (Madow 1949) takes an image of weight
w the whole number of times below or above its expected N w / sum(w), by a draw of each epoch's own. So over epochs each
image appears exactly as often as its weight says, and in no single epoch much more often by chance.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import final

import numpy as np
import numpy.typing as npt

from unsquare.errors import PlanError
from unsquare.plan.epoch import Positions
from unsquare.settings import received
from unsquare.shapes import Sizes

SORTED = 1 << 20
"""Items up to which an order is sorted bits, uniform by construction; 8 MB and a tenth of a second."""
ROUNDS = 96
"""Rounds of the keyed permutation. Each swaps half of all pairs of a random pairing; Ethereum's shuffle takes 90."""
BLOCK = 1 << 12
"""Positions computed together: steps follow each other, and NumPy takes as long for 256 as for some thousand."""
CHUNK = 1 << 22
"""Items processed at once in passes over a whole epoch."""

Bits = npt.NDArray[np.uint64]
Weights = npt.NDArray[np.float64]


class Purpose(IntEnum):
    """What the bits are for, so that no two draws share their bits."""

    ORDER = 0
    TURNS = 1
    STEPS = 2
    CHANCE = 3
    REPEATS = 4
    BUCKET = 5
    SCALES = 6


@final
class Order:
    """A uniform order of `length` items, any range of which can be computed alone.

    Above `SORTED` items it is a swap-or-not shuffle (Hoang, Morris, Rogaway, CRYPTO 2012): in each round every item
    x has a partner k - x (modulo the length), and one bit for each pair decides whether the two are swapped.

    Args:
        seed: the run's seed.
        epoch: number of the epoch.
        purpose: what is ordered.
        length: number of items.
        number: which of several orders of one purpose.
    """

    def __init__(self, seed: int, epoch: int, purpose: Purpose, length: int, number: int = 0) -> None:
        self._length = length
        self._order: Positions | None = None
        if length <= SORTED:
            self._order = np.argsort(bits(seed, epoch, purpose, length, number), kind="stable")
        else:
            self._keys = bits(seed, epoch, purpose, 2 * ROUNDS, number).reshape(ROUNDS, 2)
            self._block = lru_cache(maxsize=2)(self._make_block)

    def run(self, start: int, stop: int) -> Positions:
        """The items at the positions from `start` to before `stop`, (stop - start,)."""
        if self._order is not None:
            return self._order[start:stop]
        first = start // BLOCK
        blocks = [self._block(number) for number in range(first, -(-stop // BLOCK))]
        return np.concatenate(blocks)[start - first * BLOCK : stop - first * BLOCK]

    def all(self) -> Positions:
        """The whole order, (length,)."""
        return self.run(0, self._length)

    def _make_block(self, number: int) -> Positions:
        places = np.arange(number * BLOCK, min((number + 1) * BLOCK, self._length))
        return swap_or_not(places, self._length, self._keys)


def swap_or_not(places: Positions, length: int, keys: Bits) -> Positions:
    """The items to which the keyed permutation maps these positions, (n,).

    Args:
        places: positions from 0 to `length` - 1, (n,).
        length: number of items.
        keys: raw bits of each round: the pairing, and what the bits of its pairs are mixed with; (rounds, 2).
    """
    things = np.asarray(places, dtype=np.int64)
    for pairing, salt in keys:
        partners = int(pairing) % length - things
        partners += length * (partners < 0)
        of_pair = np.maximum(things, partners).astype(np.uint64)
        things = np.where(mixed(of_pair ^ salt) >> np.uint64(63), partners, things)
    return things


def mixed(values: Bits) -> Bits:
    """64 well-mixed bits for each value: the finalizer of SplitMix64 (Steele, Lea, Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def quarter_turns(seed: int, epoch: int, length: int) -> npt.NDArray[np.uint8]:
    """A uniform number of quarter turns for each of `length` images, (length,), 0 to 3."""
    generator = _generator(seed, epoch, Purpose.TURNS)
    turns = np.empty(length, dtype=np.uint8)
    for start in range(0, length, CHUNK):
        part = turns[start : start + CHUNK]
        part[:] = generator.random_raw(len(part)) >> np.uint64(62)
    return turns


LEAST_SIDE = 64
"""Sides are not scaled below this many pixels: two pixels of the last map of most networks."""


def random_scales(sizes: Sizes, least: float, seed: int, epoch: int) -> npt.NDArray[np.float64]:
    """A uniform scale for each image, (N,), from `least` to 1, or from where its shorter side would be `LEAST_SIDE`."""
    chance = (bits(seed, epoch, Purpose.SCALES, len(sizes)) >> np.uint64(11)) / 2.0**53
    lowest = np.clip(LEAST_SIDE / np.asarray(sizes).min(axis=1), least, 1.0)
    return lowest + (1 - lowest) * chance


def bits(seed: int, epoch: int, purpose: Purpose, length: int, number: int = 0) -> Bits:
    """Raw bits, (length,)."""
    return _generator(seed, epoch, purpose, number).random_raw(length)


def _generator(seed: int, epoch: int, purpose: Purpose, number: int = 0) -> np.random.PCG64:
    entropy = (seed, epoch, int(purpose), number) if number else (seed, epoch, int(purpose))
    return np.random.PCG64(np.random.SeedSequence(entropy))


# --- Repeats of weighted images ---


def repeated(weights: npt.ArrayLike, num_images: int, seed: int, epoch: int) -> Positions:
    """Positions of the images of one epoch, (N,), ascending, each repeated as often as it was drawn.

    Args:
        weights: weight of each image, (N,), at least 0 and not all 0.
        num_images: N.
        seed: the run's seed.
        epoch: number of the epoch.

    Raises:
        PlanError: the weights are not one finite number of at least 0 for each image, or all are 0.
    """
    values = checked_weights(weights, num_images)
    # In a random order: otherwise draws of images that are neighbors in the index would be correlated.
    order = Order(seed, epoch, Purpose.REPEATS, num_images).all()
    due = np.cumsum(values[order])
    start = float(bits(seed, epoch, Purpose.REPEATS, 1, 1)[0] >> np.uint64(11)) / 2.0**53
    places = (start + np.arange(num_images)) * (due[-1] / num_images)
    return np.sort(order[np.minimum(np.searchsorted(due, places, side="right"), num_images - 1)])


def checked_weights(weights: npt.ArrayLike, num_images: int) -> Weights:
    """The weights of images as finite numbers, (N,).

    Raises:
        PlanError: they are not one finite number of at least 0 for each image, or all are 0.
    """
    try:
        values = np.asarray(weights, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise PlanError(
            f"Weights must be one number for each image, but are {received(weights)}; pass an array of numbers."
        ) from error
    if values.shape != (num_images,) or not (np.isfinite(values) & (values >= 0)).all() or not values.any():
        raise PlanError(
            f"Weights must be one finite number of at least 0 for each of the {num_images:,} images, not all 0, but "
            f"their shape is {values.shape}, their minimum {values.min(initial=np.inf)} and their sum {values.sum()}; "
            "pass one weight for each image."
        )
    return values


def class_weights(labels: npt.ArrayLike) -> Weights:
    """The weights that make all classes equally frequent.

    Args:
        labels: class of each image, (N,), -1 where unknown.

    Returns:
        Relative frequency of each image, (N,), 1 on average; images without a class get the mean weight.

    Example:
        >>> unsquare.class_weights([0, 0, 0, 1]).round(2).tolist()
        [0.67, 0.67, 0.67, 2.0]
    """
    classes = np.asarray(labels, dtype=np.int64)
    known = classes >= 0
    weights = np.ones(len(classes))
    if known.any():
        counts = np.bincount(classes[known])
        weights[known] = known.sum() / np.count_nonzero(counts) / counts[classes[known]]
    return weights
