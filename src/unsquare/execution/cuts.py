"""Chooses where to cut a chain of steps, so that its peak memory is small or its cost in time low.

All sizes are bytes for each pixel of the image, since the maps of a convolutional network grow with it. Forward keeps
nothing between cuts; backward runs one part at a time. The peak is therefore the maps at the cuts plus the largest
part. For tiled parts, a constant replaces the largest part, and the overlap of tiles is the cost. These estimates only
choose among cuts; the memory that a strategy takes is measured.
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
"""Memory that a tile may take, 64 MB to 2 GB: more memory means larger tiles, which overlap less."""
MOST_CUTS = 6
"""Places in the tiled part where cuts are tried; networks change resolution about five times."""
_TRIALS = 96
"""Sizes of the largest part that are tried."""


@dataclass(frozen=True)
class StepWeight:
    """What a step costs, for each pixel of the image."""

    given_bytes: float
    """Bytes of its input map."""
    kept_bytes: float
    """Bytes that it keeps for its backward pass."""
    given_stride: float
    """Stride of the input map: pixels of the image between two of its pixels, along a side."""
    stride: int
    """Pixels of the input map between two of the output map; 0 where the receptive field is the whole image."""
    halo: int
    """Most pixels of the input map that it reads beside its own; 0 where the receptive field is the whole image."""

    @property
    def is_local(self) -> bool:
        """Whether it can be tiled."""
        return self.stride > 0


def checkpointed(weights: Sequence[StepWeight], *, offload: bool = False) -> Strategy:
    """The strategy that keeps only the maps at cuts, at the lowest estimated peak; the last part keeps everything."""
    cuts = [*_best_cuts(weights, free_cuts=offload), len(weights)]
    parts = list(pairwise(cuts))
    segments = [Segment(start, stop, "checkpoint") for start, stop in parts[:-1]] + [Segment(*parts[-1], "keep")]
    return Strategy(tuple(segments), offload)


class Estimate(NamedTuple):
    """A strategy, the memory that it is estimated to take, and its cost."""

    strategy: Strategy
    bytes_per_pixel: float
    tile_bytes: float
    work: float
    """What its steps compute in one forward pass, overlap included; 1 for the plain network."""


def tiled(weights: Sequence[StepWeight]) -> list[Estimate]:
    """Strategies that tile the first steps and checkpoint the rest, in order of their work.

    Empty where already the first step's receptive field is the whole image.
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
    """The tiled strategy estimated to take the least memory for large images; None where nothing can be tiled."""
    found = tiled(weights)
    return min(found, key=lambda each: (each.bytes_per_pixel, each.tile_bytes)).strategy if found else None


def _best_cuts(weights: Sequence[StepWeight], *, free_cuts: bool = False) -> list[int]:
    """First steps of the parts for which the maps at cuts and the largest part together are smallest."""
    kept = np.concatenate([[0.0], np.cumsum([weight.kept_bytes for weight in weights])])
    given = np.array([0.0 if free_cuts else weight.given_bytes for weight in weights])
    largest = max(weight.kept_bytes for weight in weights)
    found: list[tuple[float, float, list[int]]] = []
    for limit in np.geomspace(max(largest, 1e-9), max(kept[-1], 1e-9), _TRIALS) * (1 + 1e-9):
        crossing, cuts = _cheapest_cuts(kept, given, limit)
        parts = np.diff(kept[[*cuts, len(weights)]])
        # Ties go to fewer cuts: a looser limit gives longer parts.
        found.append((crossing + parts.max(), len(cuts), cuts))
    return min(found)[2]


def _cheapest_cuts(kept: np.ndarray, given: np.ndarray, limit: float) -> tuple[float, list[int]]:
    """The least bytes of maps at cuts if no part keeps more than a limit, and the parts' first steps."""
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
    """Sets of cuts of the tiled part, from its first step to its end, all where the resolution changes."""
    if not num_local:
        return
    places = [step for step in range(1, num_local) if weights[step].stride > 1]
    places = [*sorted(places, key=lambda step: weights[step].given_bytes)[: MOST_CUTS - 1], num_local]
    for number in range(1, len(places) + 1):
        for chosen in combinations(sorted(places), number):
            yield (0, *chosen)


def _estimate(weights: Sequence[StepWeight], cuts: tuple[int, ...], tile_bytes: int, total: float) -> Estimate | None:
    """The strategy with these cuts, or None where a tile would be smaller than its halo."""
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
    # In backward, the gradients of two neighboring maps at cuts exist at once; pixels have none.
    pairs = [one + other for one, other in zip([0.0, *given[1:]], [*given[1:], 0.0])]
    crossing = sum(given) + max(max(pairs), largest_rest)
    return Estimate(Strategy(tuple(segments)), crossing, float(tile_bytes), work / max(total, 1e-9))
