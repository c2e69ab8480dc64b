"""The door to planning: an epoch of training, or one pass in any order for evaluation.

Both are pure functions of their arguments: the same sizes, settings and epoch give the same plan on any
machine, so that a resumed run, or another rank, needs to be told nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unsquare.errors import PlanError
from unsquare.plan.b2b import b2b_steps
from unsquare.plan.buckets import Buckets, form_buckets
from unsquare.plan.config import EpochNumber, Limits, PlanConfig
from unsquare.plan.draw import CHUNK, quarter_turns
from unsquare.plan.epoch import Bucket, EpochPlan, Step
from unsquare.plan.merge import merge_for_epoch
from unsquare.plan.mixed import mixed_steps
from unsquare.plan.partition import partition
from unsquare.plan.ranks import spread
from unsquare.plan.repeats import repeated
from unsquare.settings import checks_arguments
from unsquare.shapes import Shape, Sizes, checked_sides, shape_rows


class ImageOverBudgetError(PlanError):
    """One image alone has more pixels than a micro-batch may have."""

    def __init__(self, position: int, shape: Shape, budget_pixels: int) -> None:
        self.position = position
        """Position of the image in the planned sizes; callers that know keys name the file by it."""
        self.shape = shape
        self.budget_pixels = budget_pixels
        super().__init__(
            f"The image at position {position} is {shape} = {shape.pixels:,} pixels, but a micro-batch "
            f"may have at most {budget_pixels:,}; raise the budget, or shrink large images to max_pixels="
            f"{budget_pixels}."
        )


@checks_arguments
def plan_epoch(
    sizes: npt.ArrayLike,
    config: PlanConfig,
    limits: Limits,
    epoch: EpochNumber,
    *,
    turns: bool = False,
    buckets: Buckets | None = None,
    weights: npt.ArrayLike | None = None,
) -> EpochPlan:
    """The steps of one training epoch, each image exactly once, or as often as its weight says.

    Steps are planned as they are asked for: the first one of a hundred million images is there in a moment.

    Args:
        sizes: training shapes, resized and cropped, (N, 2) integers; may be a memory-mapped array.
        config: how to cut the epoch.
        limits: what a micro-batch may hold, what a launch costs, and the number of ranks.
        epoch: number of the epoch, from 0; another epoch has another order.
        turns: whether each image is turned by random quarter turns, and its planned shape with it.
        buckets: what `form_buckets` returned for the same arguments, to form them once for all epochs.
        weights: how often each image should come against the others, (N,); None takes each once.

    Raises:
        PlanError: there are no images, or one alone exceeds the budget (`ImageOverBudgetError`), or weights are
            missing where `config.sampling` asks for them (`class_weights` makes them), or the buckets are of other
            images or of other turns.
    """
    if config.sampling == "balanced" and weights is None:
        raise PlanError("Balanced sampling needs weights, but none were given; pass weights=class_weights(labels).")
    shapes = _checked(sizes, limits)
    drawn_turns = np.zeros(len(shapes), dtype=np.uint8)
    planned, turned = shapes, None
    if turns:
        drawn_turns = quarter_turns(config.seed, epoch, len(shapes))
        turned = (drawn_turns % 2).astype(bool)
        planned = np.where(turned[:, None], shapes[:, ::-1], shapes)
    images = None if weights is None else repeated(weights, len(shapes), config.seed, epoch)
    if config.needs_buckets:
        buckets = buckets or form_buckets(shapes, config, limits, turns=turns)
        _require_of(buckets, len(shapes), turns)
    canvases = None if config.canvases is None or buckets is None else buckets.bounded
    current: tuple[Bucket, ...] = ()
    if config.steps == "mixed":
        steps = mixed_steps(planned, images, config, limits, epoch, canvases)
    else:
        assert buckets is not None, "b2b needs buckets"
        current = buckets.of_epoch(turned, images)
        if turned is not None or images is not None:
            current = merge_for_epoch(current, limits, canvases)
        steps = b2b_steps(planned, current, config, limits, epoch, canvases)
    return EpochPlan(epoch=epoch, seed=config.seed, sizes=planned, turns=drawn_turns, steps=steps, buckets=current)


def plan_in_order(sizes: npt.ArrayLike, limits: Limits) -> EpochPlan:
    """One pass over every image for evaluation: no draw, micro-batches as tight and as few as they can be.

    Steps hold at most one micro-batch per rank, costliest first, so that ranks finish together and memory
    is at its highest at once.
    """
    shapes = _checked(sizes, limits)
    parts = partition(shapes, np.arange(len(shapes)), limits)
    parts.sort(key=lambda part: -len(part) * int(shapes[part].max(axis=0).prod()))
    num_ranks = limits.world_size
    steps = tuple(
        Step(spread(shapes, parts[start : start + num_ranks], limits)) for start in range(0, len(parts), num_ranks)
    )
    return EpochPlan(epoch=0, seed=0, sizes=shapes, turns=np.zeros(len(shapes), dtype=np.uint8), steps=steps)


def _require_of(buckets: Buckets, num_images: int, turns: bool) -> None:
    """Refuse buckets that would lose images or whose bounds do not hold them."""
    wanted = (1 + turns, num_images)
    if buckets.of_image.shape != wanted:
        raise PlanError(
            "Buckets are of the very images that are planned, lying on their side as well where they turn, but "
            f"(orientations, images) is {buckets.of_image.shape} instead of {wanted}; form_buckets takes both."
        )


def _checked(sizes: npt.ArrayLike, limits: Limits) -> Sizes:
    """The shapes as integers, each within the budget; looked at in chunks, for they may lie in a file."""
    shapes = shape_rows(sizes, PlanError)
    if not len(shapes):
        raise PlanError("There are no images to plan; the list of shapes is empty.")
    for start in range(0, len(shapes), CHUNK):
        chunk = checked_sides(np.asarray(shapes[start : start + CHUNK]), PlanError)
        pixels = chunk[:, 0] * chunk[:, 1]
        if pixels.max() > limits.largest_pixels:
            position = int(pixels.argmax())
            shape = Shape(int(chunk[position, 0]), int(chunk[position, 1]))
            raise ImageOverBudgetError(start + position, shape, limits.largest_pixels)
    return shapes.astype(np.int64) if shapes.dtype.kind == "f" else shapes
