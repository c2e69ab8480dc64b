"""Where to cut a chain of steps, so that its peak memory is small or its price in time low.

All sizes are bytes for each pixel of the image, as the maps of a convolutional network grow with it. Between cuts
nothing is kept in forward; in backward the parts come one at a time. The peak is therefore what crosses the cuts, and
the largest part; for parts that run piece by piece a constant takes that part's place, and the overlap of the pieces is
the price. The estimates choose among cuts; what a way really takes is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

from unsquare.execution.strategy import Segment, Strategy

TILE_BYTES = tuple(1 << power for power in range(26, 32))
"""What a piece may take, 64 MB to 2 GB: more makes larger pieces, which overlap less."""
MOST_CUTS = 6
"""Cuts of the streamed part that are looked at together; networks change resolution about five times."""
_TRIALS = 96
"""Sizes of the largest part that are tried."""


@dataclass(frozen=True)
class StepWeight:
    """What a step costs, for each pixel of the image."""

    given_bytes: float
    """The map that it is given."""
    kept_bytes: float
    """What it keeps for its backward pass."""
    given_stride: float
    """Pixels of the image between two of the given map, along a side."""
    stride: int
    """Pixels of the given map between two of the returned one; 0 where it looks at whole images."""
    halo: int
    """Pixels of the given map that it looks at beside its own, at the most; 0 where it looks at whole images."""

    @property
    def is_local(self) -> bool:
        """Whether it can run piece by piece."""
        return self.stride > 0


def checkpointed(weights: Sequence[StepWeight], *, offload: bool = False) -> Strategy:
    """The way that keeps only what crosses cuts and has the lowest estimated peak; the last part is kept whole."""
    cuts = [*_best_cuts(weights, free_cuts=offload), len(weights)]
    parts = list(pairwise(cuts))
    segments = [Segment(start, stop, "checkpoint") for start, stop in parts[:-1]] + [Segment(*parts[-1], "keep")]
    return Strategy(tuple(segments), offload)


class Estimate(NamedTuple):
    """A way, what it is estimated to take, and its price."""

    strategy: Strategy
    bytes_per_pixel: float
    tile_bytes: float
    work: float
    """What its steps compute in one forward pass, overlap included; 1 for the plain network."""


def tiled(weights: Sequence[StepWeight]) -> list[Estimate]:
    """Ways that run the first steps piece by piece, and the rest with cuts; by ascending work.

    None where the first step already looks at whole images.
    """
    num_local = next((i for i, weight in enumerate(weights) if not weight.is_local), len(weights))
    total = sum(weight.kept_bytes for weight in weights)
    found = []
    for cuts in _tile_cuts(weights, num_local):
        for tile_bytes in TILE_BYTES:
            estimate = _estimate(weights, cuts, tile_bytes, total)
            if estimate is not None:
                found.append(estimate)
    return sorted(found, key=lambda each: (each.work, each.bytes_per_pixel, each.tile_bytes))


def smallest_tiled(weights: Sequence[StepWeight]) -> Strategy | None:
    """The streamed way that is estimated to take least for large images; None where nothing can stream."""
    found = tiled(weights)
    return min(found, key=lambda each: (each.bytes_per_pixel, each.tile_bytes)).strategy if found else None


def _best_cuts(weights: Sequence[StepWeight], *, free_cuts: bool = False) -> list[int]:
    """First steps of the parts with the least sum of what crosses cuts and the largest part."""
    kept = np.concatenate([[0.0], np.cumsum([weight.kept_bytes for weight in weights])])
    given = np.array([0.0 if free_cuts else weight.given_bytes for weight in weights])
    largest = max(weight.kept_bytes for weight in weights)
    found: list[tuple[float, float, list[int]]] = []
    for limit in np.geomspace(max(largest, 1e-9), max(kept[-1], 1e-9), _TRIALS) * (1 + 1e-9):
        crossing, cuts = _cheapest_cuts(kept, given, limit)
        parts = np.diff(kept[[*cuts, len(weights)]])
        # Of equals the one with fewer cuts: a looser limit gives longer parts.
        found.append((crossing + parts.max(), len(cuts), cuts))
    return min(found)[2]


def _cheapest_cuts(kept: np.ndarray, given: np.ndarray, limit: float) -> tuple[float, list[int]]:
    """The least sum of what crosses cuts where no part keeps more than a limit, and the parts' first steps."""
    num_steps = len(given)
    cost = np.zeros(num_steps + 1)
    first = np.zeros(num_steps + 1, dtype=int)
    for stop in range(1, num_steps + 1):
        start = int(np.searchsorted(kept, kept[stop] - limit))
        start = min(start, stop - 1)
        trial = cost[start:stop] + given[start:stop]
        first[stop] = start + int(trial.argmin())
        cost[stop] = trial.min()
    cuts: list[int] = []
    stop = num_steps
    while stop:
        stop = int(first[stop])
        cuts.append(stop)
    return float(cost[-1]), cuts[::-1]


def _tile_cuts(weights: Sequence[StepWeight], num_local: int) -> Iterator[tuple[int, ...]]:
    """Sets of cuts of the streamed part, from its first step to its end: where the resolution changes, or it ends."""
    if not num_local:
        return
    places = [step for step in range(1, num_local) if weights[step].stride > 1]
    places = [*sorted(places, key=lambda step: weights[step].given_bytes)[: MOST_CUTS - 1], num_local]
    for number in range(1, len(places) + 1):
        for chosen in combinations(sorted(places), number):
            yield (0, *chosen)


def _estimate(weights: Sequence[StepWeight], cuts: tuple[int, ...], tile_bytes: int, total: float) -> Estimate | None:
    """The way with these cuts, or None where a piece of a part would be smaller than its halo."""
    segments, work = [], 0.0
    for start, stop in pairwise(cuts):
        part = weights[start:stop]
        kept = sum(weight.kept_bytes for weight in part)
        side = math.sqrt(tile_bytes / max(kept, 1.0))  # in pixels of the image
        halo = sum(weight.halo * weight.given_stride for weight in part)
        out_stride = part[-1].given_stride * part[-1].stride
        if side < 1.25 * halo + out_stride:
            return None
        segments.append(Segment(start, stop, "tile", max(1, int(side / part[0].given_stride))))
        work += kept * (side / (side - halo)) ** 2
    rest, largest_rest = list(weights[cuts[-1] :]), 0.0
    if rest:
        own = [cut + cuts[-1] for cut in _best_cuts(rest)]
        parts = list(zip(own, [*own[1:], len(weights)]))
        segments += [Segment(start, stop, "checkpoint") for start, stop in parts[:-1]]
        segments.append(Segment(*parts[-1], "keep"))
        largest_rest = max(sum(weight.kept_bytes for weight in weights[start:stop]) for start, stop in parts)
        work += sum(weight.kept_bytes for weight in rest)
    given = [weights[segment.start].given_bytes for segment in segments]
    # Gradients of the two largest neighbors of what crosses are there at once; pixels have none.
    pairs = [one + other for one, other in zip([0.0, *given[1:]], [*given[1:], 0.0])]
    crossing = sum(given) + max(max(pairs), largest_rest)
    return Estimate(Strategy(tuple(segments)), crossing, float(tile_bytes), work / max(total, 1e-9))
