"""Every random draw of a plan: the order of images and steps, and quarter turns.

Each is a pure function of (seed, epoch, purpose, length). Raw bits are sorted rather than handed to
`Generator.permutation`: NumPy promises the stream of a bit generator for good, but not what its
distributions make of it, and a resumed run may find a newer NumPy.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from unsquare.plan.epoch import Positions


class Purpose(IntEnum):
    """What the bits are for, so that no two draws share a stream."""

    ORDER = 0
    TURNS = 1
    STEPS = 2
    CHANCE = 3


def permutation(seed: int, epoch: int, purpose: Purpose, length: int) -> Positions:
    """A uniform order of `length` things, (length,)."""
    return np.argsort(_bits(seed, epoch, purpose, length), kind="stable")


def quarter_turns(seed: int, epoch: int, length: int) -> npt.NDArray[np.uint8]:
    """A uniform number of quarter turns for each of `length` images, (length,), 0 to 3."""
    return (_bits(seed, epoch, Purpose.TURNS, length) >> np.uint64(62)).astype(np.uint8)


def _bits(seed: int, epoch: int, purpose: Purpose, length: int) -> npt.NDArray[np.uint64]:
    generator = np.random.PCG64(np.random.SeedSequence((seed, epoch, int(purpose))))
    return generator.random_raw(length)
