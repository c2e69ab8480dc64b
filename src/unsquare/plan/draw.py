"""Every random draw of a plan: the order of images and steps, quarter turns, repeats of weighted images.

Each is a pure function of (seed, epoch, purpose) and of where in the order one looks. Raw bits are sorted rather than
handed to `Generator.permutation`: NumPy promises the stream of a bit generator for good, but not what its
distributions make of it, and a resumed run may find a newer NumPy. Above a million things nothing is sorted or held:
the order is a keyed permutation, asked run by run, so that the first step of a hundred million images takes as long
as that of a thousand.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import final

import numpy as np
import numpy.typing as npt

from unsquare.plan.epoch import Positions

SORTED = 1 << 20
"""Things up to which an order is sorted bits, uniform by construction; 8 MB and a tenth of a second."""
ROUNDS = 96
"""Rounds of the keyed permutation. Each swaps half of all pairs of a random pairing; Ethereum's shuffle takes 90."""
BLOCK = 1 << 12
"""Places worked out together: steps follow each other, and NumPy takes as long for 256 as for some thousand."""
CHUNK = 1 << 22
"""Things looked at together where a whole epoch is gone through."""

Bits = npt.NDArray[np.uint64]


class Purpose(IntEnum):
    """What the bits are for, so that no two draws share a stream."""

    ORDER = 0
    TURNS = 1
    STEPS = 2
    CHANCE = 3
    REPEATS = 4
    BUCKET = 5


@final
class Order:
    """A uniform order of `length` things, of which any run can be asked for.

    Above `SORTED` things it is a swap-or-not shuffle (Hoang, Morris, Rogaway, CRYPTO 2012): in each round every thing
    x has a partner k - x (modulo the length), and a bit of the pair's own decides whether the two change places.

    Args:
        seed: the run's seed.
        epoch: number of the epoch.
        purpose: what is ordered.
        length: how many things.
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
        """Which things stand from one place to before another, (stop - start,)."""
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
    """Where the keyed permutation takes these places, (n,).

    Args:
        places: numbers from 0 to the length less one, (n,).
        length: how many things are ordered.
        keys: raw bits of each round: the pairing, and what its pairs' bits are mixed with; (rounds, 2).
    """
    things = np.asarray(places, dtype=np.int64)
    for pairing, salt in keys:
        partners = int(pairing) % length - things
        partners += length * (partners < 0)
        of_pair = np.maximum(things, partners).astype(np.uint64)
        things = np.where(mixed(of_pair ^ salt) >> np.uint64(63), partners, things)
    return things


def mixed(values: Bits) -> Bits:
    """64 bits that look unrelated to each value: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
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


def bits(seed: int, epoch: int, purpose: Purpose, length: int, number: int = 0) -> Bits:
    """Raw bits, (length,)."""
    return _generator(seed, epoch, purpose, number).random_raw(length)


def _generator(seed: int, epoch: int, purpose: Purpose, number: int = 0) -> np.random.PCG64:
    entropy = (seed, epoch, int(purpose), number) if number else (seed, epoch, int(purpose))
    return np.random.PCG64(np.random.SeedSequence(entropy))
