"""Lower bounds that no way of batching beats, so that what a plan could still save is known.

Take any image in a micro-batch of k images. The canvas holds the k - 1 others as well, so its pixels are at least the
(k - 1)-th smallest of what the image and one other need together; and k of them must be within the budget. The image's
share of the cost, canvas + launch / k, is therefore at least the minimum over all k that the budget allows. The sum of
these minimum shares is below the cost of every partition, and the sum of 1 / (largest k) below its number of
micro-batches. That computed pixels are at least real pixels needs no proof; images alone reach it. (Counting the images
that a canvas really holds, instead of pairs, tightens the bound on MAMe by less than 0.02 %.)

The bound takes O(n^2 log n) for n images that may go together. For large n the nearest other images need hardly more
than the image alone, and that is the bound used: O(n), and hardly lower.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from unsquare.plan.analysis.table import PlanTable
from unsquare.plan.config import Limits
from unsquare.shapes import Sizes

PAIRED_IMAGES = 1024
"""The most images for which every pair is considered."""
ROUNDING = 1e-12
"""Relative margin below sums of floats, which round."""


class LowerBound(NamedTuple):
    """What every partition of a set of images into micro-batches has at least."""

    micro_batches: int
    cost: float
    """Computed pixels and launches, as pixels."""


def lower_bound(shapes: Sizes, limits: Limits) -> LowerBound:
    """The bound for any partition of images of these shapes, (n, 2) int64, into micro-batches within the budget."""
    pixels = shapes.prod(axis=1)
    if len(shapes) > PAIRED_IMAGES:
        most = limits.capacity(pixels)
        shares = limits.priced(pixels) + limits.launch_pixels / most
    else:
        heights, widths = shapes.T
        together = np.maximum(heights[:, None], heights) * np.maximum(widths[:, None], widths)
        together.sort(axis=1)  # (n, k - 1): the least canvas of a micro-batch of k images that holds this one
        number = np.arange(1, len(shapes) + 1)
        allowed = together * number <= limits.budget_pixels
        allowed[:, 0] = True  # an image fits alone, or there is no plan
        most = allowed.sum(axis=1)  # canvases grow with k, so what is allowed comes first
        together[:, 0] = limits.priced(pixels)
        shares = np.where(allowed, together + limits.launch_pixels / number, np.inf).min(axis=1)
    batches = math.ceil((1 / most).sum() * (1 - ROUNDING))
    return LowerBound(
        micro_batches=max(batches, min(limits.world_size, len(shapes))),
        cost=float(shares.sum()) * (1 - ROUNDING),
    )


def plan_lower_bound(table: PlanTable, limits: Limits) -> LowerBound:
    """The bound for a plan: in `b2b` for any partition of the epoch, in `mixed` with the images of each step given."""
    if (table.bucket >= 0).all():
        return lower_bound(table.sizes, limits)
    steps = np.flatnonzero(np.diff(table.step_of_image)) + 1
    micro_batches, cost = 0, 0.0
    for shapes in np.split(table.sizes, steps):  # not `sum`, which rounds floats otherwise from Python 3.12 on
        bound = lower_bound(shapes, limits)
        micro_batches, cost = micro_batches + bound.micro_batches, cost + bound.cost
    return LowerBound(micro_batches, cost)
