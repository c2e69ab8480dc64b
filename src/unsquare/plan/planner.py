"""Plans of whole epochs: one of training, or one pass over every image for evaluation.

Both are pure functions of their arguments: the same sizes, settings and epoch give the same plan on any machine, so
that a resumed run or another rank makes the same plan by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from unsquare.errors import BudgetError, PlanError
from unsquare.plan.b2b import b2b_steps
from unsquare.plan.buckets.form import Buckets, form_buckets, merge_for_epoch
from unsquare.plan.config import EpochNumber, Limits, PlanConfig
from unsquare.plan.draw import CHUNK, quarter_turns, random_scales, repeated
from unsquare.plan.epoch import Bucket, EpochPlan, Step
from unsquare.plan.mixed import mixed_steps
from unsquare.plan.partition.ranks import spread
from unsquare.plan.partition.tight import partition
from unsquare.settings import checks_arguments
from unsquare.shapes import Shape, Sizes, checked_sides, scaled, shape_rows


class ImageOverBudgetError(PlanError):
    """One image alone has more pixels than a micro-batch may have.

    Example:
        >>> sizes = [(400, 600), (600, 400), (410, 590), (640, 640)]
        >>> limits = unsquare.Limits(budget_pixels=250_000)
        >>> try:
        ...     plan = unsquare.plan_epoch(sizes, unsquare.PlanConfig(), limits, epoch=0)
        ...     steps = list(plan.steps)
        ... except unsquare.ImageOverBudgetError as error:
        ...     print(error.position, error.shape, error.budget_pixels)
        3 640 x 640 250000
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.position, self.shape, self.budget_pixels)

    def __init__(self, position: int, shape: Shape, budget_pixels: int) -> None:
        self.position = position
        """Position of the image in the planned sizes; `naming` turns it into the file's key."""
        self.shape = shape
        self.budget_pixels = budget_pixels
        super().__init__(
            f"Each image must fit a micro-batch of at most {budget_pixels:,} pixels alone, but the image at position "
            f"{position} is {shape} = {shape.pixels:,} pixels; raise the budget, or shrink large images with "
            f"max_pixels={budget_pixels}."
        )


@contextmanager
def naming(keys: npt.NDArray[np.object_], remedies: Callable[[int], str]) -> Iterator[None]:
    """Within the block, an error about an image over the budget names its file instead of its position.

    Args:
        keys: key of each planned image, (N,).
        remedies: from the image's pixels, what helps besides shrinking it.

    Raises:
        BudgetError: in place of `ImageOverBudgetError`.
    """
    try:
        yield
    except ImageOverBudgetError as error:
        raise BudgetError(
            f"Each image must fit the memory budget alone, which holds {error.budget_pixels:,} pixels, but "
            f"{keys[error.position]} has {error.shape} = {error.shape.pixels:,}; "
            f"{remedies(error.shape.pixels)}, or shrink the pictures with --max-pixels {error.budget_pixels}."
        ) from error


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

    Each step is planned when it is asked for: the first of a hundred million images takes about a second.

    Args:
        sizes: training shapes, resized and cropped, (N, 2) integers; may be a memory-mapped array.
        config: how to cut the epoch.
        limits: what a micro-batch may hold, what a launch costs, and the number of ranks.
        epoch: number of the epoch, from 0; each epoch has its own order.
        turns: whether each image is turned by random quarter turns, and its planned shape with it.
        buckets: what `form_buckets` returned for the same arguments, to form them once for all epochs.
        weights: relative frequency of each image, (N,); None takes each once.

    Returns:
        The steps with their micro-batches by rank, and the buckets where there are any.

    Raises:
        PlanError: there are no images, one alone exceeds the budget (`ImageOverBudgetError`), weights are missing
            although `config.sampling` needs them (`class_weights`), or the buckets are those of other images or turns.

    Example:
        >>> sizes = [(400, 600), (600, 400), (410, 590), (640, 640)]
        >>> limits = unsquare.Limits(budget_pixels=800_000)
        >>> plan = unsquare.plan_epoch(sizes, unsquare.PlanConfig(step_images=4), limits, epoch=0)
        >>> [batch.canvas for batch in plan.micro_batches]
        [Shape(height=410, width=600), Shape(height=640, width=640), Shape(height=600, width=400)]
    """
    if config.sampling == "balanced" and weights is None:
        raise PlanError("Balanced sampling needs weights, but none were given; pass weights=class_weights(labels).")
    full = _checked(sizes, limits)
    scales = random_scales(full, config.least_scale, config.seed, epoch) if config.least_scale < 1 else None
    drawn_turns = quarter_turns(config.seed, epoch, len(full)) if turns else np.zeros(len(full), dtype=np.uint8)
    turned = (drawn_turns % 2).astype(bool) if turns else None
    planned = _drawn(full, scales, turned)
    images = None if weights is None else repeated(weights, len(full), config.seed, epoch)
    if config.needs_buckets:
        buckets = buckets or form_buckets(full, config, limits, turns=turns)
        _require_of(buckets, len(full), turns)
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
    return EpochPlan(epoch, config.seed, sizes=planned, turns=drawn_turns, steps=steps, buckets=current, scales=scales)


def plan_in_order(sizes: npt.ArrayLike, limits: Limits) -> EpochPlan:
    """One pass over every image for evaluation, without random draws, in micro-batches that cost least.

    Steps hold at most one micro-batch per rank, costliest first, so that ranks finish together and memory use peaks
    at the start.
    """
    shapes = _checked(sizes, limits)
    parts = partition(shapes, np.arange(len(shapes)), limits)
    parts.sort(key=lambda part: -len(part) * int(shapes[part].max(axis=0).prod()))
    num_ranks = limits.world_size
    steps = tuple(
        Step(spread(shapes, parts[start : start + num_ranks], limits)) for start in range(0, len(parts), num_ranks)
    )
    return EpochPlan(epoch=0, seed=0, sizes=shapes, turns=np.zeros(len(shapes), dtype=np.uint8), steps=steps)


def _drawn(shapes: Sizes, scales: npt.NDArray[np.float64] | None, turned: npt.NDArray[np.bool_] | None) -> Sizes:
    """The shapes as the epoch has drawn them: scaled, then turned."""
    if scales is not None:
        shapes = scaled(shapes, scales)
    return shapes if turned is None else np.where(turned[:, None], shapes[:, ::-1], shapes)


def _require_of(buckets: Buckets, num_images: int, turns: bool) -> None:
    """Refuse buckets that would omit images or whose bounds do not hold them."""
    wanted = (1 + turns, num_images)
    if buckets.of_image.shape != wanted:
        raise PlanError(
            "Buckets must be formed from the images that are planned, with the same turns, but (orientations, images) "
            f"is {buckets.of_image.shape} instead of {wanted}; pass the same sizes and turns to form_buckets."
        )


def _checked(sizes: npt.ArrayLike, limits: Limits) -> Sizes:
    """The shapes as integers, each within the budget; checked in chunks, because they may be memory-mapped."""
    shapes = shape_rows(sizes, PlanError)
    if not len(shapes):
        raise PlanError(
            "A plan needs at least one image, but there are no images: sizes is empty; pass one shape for each image."
        )
    for start in range(0, len(shapes), CHUNK):
        chunk = checked_sides(np.asarray(shapes[start : start + CHUNK]), PlanError)
        pixels = chunk[:, 0] * chunk[:, 1]
        if pixels.max() > limits.largest_pixels:
            position = int(pixels.argmax())
            shape = Shape(int(chunk[position, 0]), int(chunk[position, 1]))
            raise ImageOverBudgetError(start + position, shape, limits.largest_pixels)
    return shapes.astype(np.int64) if shapes.dtype.kind == "f" else shapes
