"""The size of pictures at which trained weights do best: near that of their last epoch, but not always at it.

Weights that were pretrained on small pictures and then trained on larger ones often judge best in between (compare
Touvron et al., Fixing the train-test resolution discrepancy, 2019). So after training the best weights are evaluated on
val at the sizes around their own, as long as that helps, and used at the best one. Where pictures grow only
`while-better`, the smaller sizes are tried at the end of each stage as well: if one is better, the best size is passed,
and the rest of the run stays at it. Each trial costs one pass over the val split without gradients. Without stages
there is nothing to choose: pictures keep their full size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import numpy as np

from unsquare.progress import Progress
from unsquare.runs.figures import CHOOSING, DECIDING, figure_text
from unsquare.shapes import Geometry, Sizes
from unsquare.training.evaluate import Evaluator
from unsquare.training.metrics import Evaluation
from unsquare.training.resolution import ResolutionConfig, Stage, size_text, stage_geometry

Size = int | None
"""The most pixels of pictures; None is full size."""


def candidate_sizes(stages: tuple[Stage, ...], sizes: Sizes) -> list[Size]:
    """The sizes of all stages in ascending order, and one between each two: the geometric mean.

    Args:
        stages: those of the run; the last is at full size.
        sizes: full shapes of the pictures, (N, 2), whose median stands for full size.
    """
    usual = int(np.median(sizes.prod(axis=1)))
    caps = sorted({cap for cap, _ in stages if cap is not None and cap < usual})
    between = [round(sqrt(low * high)) for low, high in pairwise([*caps, usual])]
    return [*(size for pair in zip(caps, between) for size in pair), None]


@dataclass(frozen=True)
class ChosenSize:
    """The size at which weights do best, and what they reach at the sizes that were tried."""

    size: Size
    tried: tuple[tuple[Size, Evaluation], ...] = ()
    """In ascending order of the sizes; empty where there was no other size to try."""

    @property
    def words(self) -> str:
        """What the weights reach at each size tried: the figure that decides."""
        task = self.tried[0][1].images.task
        figures = (
            (size_text(size), figure_text(DECIDING[task], found.to_row()[DECIDING[task]])) for size, found in self.tried
        )
        return f"{CHOOSING[task]} {', '.join(f'{figure} at {size}' for size, figure in figures)}"


def best_size(
    candidates: list[Size], own: Size, evaluate: Callable[[Size], Evaluation], *, only_smaller: bool = False
) -> ChosenSize:
    """The size at which weights do best on val, by the figure that chooses weights, of equals by loss.

    From the weights' own size the search goes to the neighbor that is better, as long as one is.

    Args:
        candidates: sizes in ascending order.
        own: the size that the weights were last trained on, one of them.
        evaluate: evaluates the weights on val at a size.
        only_smaller: do not try sizes above their own.
    """
    known: dict[int, Evaluation] = {}

    def score(at: int) -> tuple[float, float]:
        if at not in known:
            known[at] = evaluate(candidates[at])
        return known[at].score, -known[at].loss

    best = candidates.index(own)
    for direction in (-1,) if only_smaller else (-1, 1):
        while 0 <= best + direction < len(candidates) and score(best + direction) > score(best):
            best += direction
    return ChosenSize(candidates[best], tuple((candidates[at], known[at]) for at in sorted(known)))


@dataclass(frozen=True, kw_only=True)
class SizeSearch:
    """Tries the weights in training on val, at the sizes of a run's stages and between them."""

    geometry: Geometry
    """That of full size."""
    stages: tuple[Stage, ...]
    stride: int
    evaluator: Callable[[Geometry], Evaluator]
    """Makes an evaluator on the val split, of pictures of a size."""
    progress: Callable[[str], Progress]

    def best(self, own: Size, evaluation: Evaluation | None = None, *, only_smaller: bool = False) -> ChosenSize:
        """The size at which the weights do best, `own` where it is among none of those to try.

        Args:
            own: the size that they were last trained on.
            evaluation: what is known of them at that size.
            only_smaller: do not try sizes above their own.
        """

        def evaluate(size: Size) -> Evaluation:
            if size == own and evaluation is not None:
                return evaluation
            geometry = stage_geometry(self.geometry, size, self.stride)
            return self.evaluator(geometry).evaluate(self.progress("choosing the size"))

        sizes = self.geometry.resize(self.evaluator(self.geometry).index.sizes)
        candidates = candidate_sizes(self.stages, sizes)
        if own not in candidates:
            return ChosenSize(own)
        return best_size(candidates, own, evaluate, only_smaller=only_smaller)


def size_search(
    geometry: Geometry,
    resolution: ResolutionConfig,
    stride: int,
    evaluator: Callable[[Geometry], Evaluator] | None,
    progress: Callable[[str], Progress],
) -> SizeSearch | None:
    """The search for a run's best size; None where there are no stages, or nothing is held out to evaluate on."""
    if evaluator is None or not resolution.chooses:
        return None
    return SizeSearch(
        geometry=geometry, stages=resolution.stages, stride=stride, evaluator=evaluator, progress=progress
    )
