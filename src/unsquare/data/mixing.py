"""Mixup and cutmix of pictures of several shapes, within the region that two of them share.

The pictures of a micro-batch form a ring, in an order drawn from each one's own generator, and each takes pixels from
the next. They lie at the top left of one canvas, so two share the smaller height and the smaller width; beyond that a
picture stays as it is. So no shape changes, nothing is written outside a region, and the weight of a label is the part
that its picture has in what is shown. Pixels are mixed as they are loaded, before a micro-batch may be halved for
memory: its halves show the same pictures.

Sources: Zhang et al., mixup (arXiv 1710.09412); Yun et al., CutMix (arXiv 1905.04899), its box drawn as in torchvision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unsquare.data.augment import AugmentConfig
from unsquare.data.pixels import Pixels
from unsquare.shapes import Shape

_ONE = 1 << 8
"""A whole picture in the fixed-point arithmetic of mixup, which then fits 16 bits."""
_STRIP_PIXELS = 1 << 15
"""Pixels of a strip, small enough for the processor's cache."""


class Mixed(NamedTuple):
    """What a micro-batch has become."""

    partners: npt.NDArray[np.int64]
    """(N,) the place in the micro-batch of the picture that each was mixed with."""
    weights: npt.NDArray[np.float32]
    """(N,) the part of each picture that is its own, from 0 to 1."""


@dataclass(frozen=True)
class _Draws:
    """What is drawn for one picture."""

    place: float
    """Its place in the ring."""
    cuts: bool
    """Whether a part is pasted, or all is blended."""
    own: float
    """How much of it stays, from 0 to 1."""
    center: tuple[float, float]
    """The middle of what is pasted, as parts of the shared height and width."""


def mix(
    canvas: npt.NDArray[np.uint8], shapes: Sequence[Shape], draws: Sequence[np.random.Generator], config: AugmentConfig
) -> Mixed:
    """Mix the pictures of a micro-batch in place.

    Args:
        canvas: (N, H, W, 3) pixels, each picture at the top left; N is 2 or more.
        shapes: the shape of each picture.
        draws: the generator of each.
        config: the strengths of mixup and cutmix, one of them above 0.
    """
    drawn = [_draw(rng, config) for rng in draws]
    ring = sorted(range(len(drawn)), key=lambda slot: drawn[slot].place)
    partners = np.empty(len(ring), np.int64)
    weights = np.empty(len(ring), np.float32)
    first = canvas[ring[0]].copy()  # the last picture takes from it when it is no longer itself
    for slot, partner in zip(ring, ring[1:] + ring[:1]):
        other = first if partner == ring[0] else canvas[partner]
        shared = Shape(*np.minimum(shapes[slot], shapes[partner]).tolist())
        partners[slot] = partner
        weights[slot] = 1 - _mix_pair(canvas[slot], other, shared, drawn[slot]) / shapes[slot].pixels
    return Mixed(partners, weights)


def _draw(rng: np.random.Generator, config: AugmentConfig) -> _Draws:
    place, choice, down, across = rng.random(4)
    cuts = config.cutmix > 0 and (config.mixup == 0 or bool(choice < 0.5))
    alpha = config.cutmix if cuts else config.mixup
    return _Draws(place, cuts, float(rng.beta(alpha, alpha)), (down, across))


def _mix_pair(image: Pixels, other: Pixels, shared: Shape, draws: _Draws) -> float:
    """Mix another picture into one, and return how many pixels are now the other's."""
    if draws.cuts:
        rows, columns = window = _box(shared, draws)
        image[window] = other[window]
        return (rows.stop - rows.start) * (columns.stop - columns.start)
    own = round(_ONE * draws.own)
    _blend(image[: shared.height, : shared.width], other[: shared.height, : shared.width], own)
    return shared.pixels * (_ONE - own) / _ONE


def _box(shared: Shape, draws: _Draws) -> tuple[slice, slice]:
    """The window to paste: the shared region scaled, about a middle within it, without what lies outside."""
    scale = 0.5 * math.sqrt(1 - draws.own)
    sides = []
    for length, center in zip(shared, draws.center):
        middle, half = int(center * length), int(scale * length)
        sides.append(slice(max(middle - half, 0), min(middle + half, length)))
    return sides[0], sides[1]


def _blend(image: Pixels, other: Pixels, own: int) -> None:
    """Write a weighted mean, rounded, strip by strip."""
    rows = max(1, _STRIP_PIXELS // image.shape[1])
    for top in range(0, len(image), rows):
        strip = image[top : top + rows]
        mean = strip * np.uint16(own)
        mean += other[top : top + rows] * np.uint16(_ONE - own)
        mean += np.uint16(_ONE // 2)
        mean >>= np.uint16(8)
        strip[:] = mean
