"""The figures by which ways to form batches are compared: ours, and those of other projects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unsquare.plan.analysis.ledger import class_skew
from unsquare.plan.analysis.table import PlanTable, epoch_cost, num_over_budget
from unsquare.plan.config import Limits
from unsquare.plan.draw import Order, Purpose


@dataclass(frozen=True, kw_only=True)
class PolicyFigures:
    """What an epoch under one policy computes, and how much of it is waste."""

    name: str
    shuffled: bool
    """Whether batches are drawn again in each epoch."""
    padding_overhead: float
    """Computed pixels / real pixels - 1; for a policy that resizes, real pixels are those before resizing."""
    num_micro_batches: int
    num_canvases: int
    """Number of distinct canvases, each of which a device may have to plan or compile for."""
    num_over_budget: int
    """Micro-batches above the budget: each would run out of memory."""
    mean_fill: float
    """Computed pixels of a micro-batch / budget, averaged over micro-batches."""
    predicted_s: float
    """Seconds of the epoch: (computed pixels + a launch for each micro-batch) / pixels per second."""
    class_skew: float | None
    """Total variation distance of a step's class mix from the dataset's, averaged over steps; None without labels."""
    chance_skew: float | None
    """The same with labels shuffled: small steps are skewed by chance alone."""


def figures_of(
    name: str, shuffled: bool, table: PlanTable, limits: Limits, labels: npt.ArrayLike | None = None
) -> PolicyFigures:
    """The figures of one epoch.

    Args:
        name: name of the policy.
        shuffled: whether its batches are drawn again in each epoch.
        table: the epoch.
        limits: the budget that batches are compared with, the cost of a launch, and the speed.
        labels: class of each planned image, -1 where unknown; None leaves class skew out.
    """
    classes = None if labels is None else np.asarray(labels, dtype=np.int64)
    if classes is not None and classes.max() < 0:
        classes = None
    computed = table.computed_pixels
    return PolicyFigures(
        name=name,
        shuffled=shuffled,
        padding_overhead=float(computed.sum() / table.real_pixels.sum() - 1),
        num_micro_batches=len(table),
        num_canvases=len(np.unique(table.canvas, axis=0)),
        num_over_budget=num_over_budget(table, limits),
        mean_fill=float(limits.fill(computed).mean()),
        predicted_s=epoch_cost(table, limits) / limits.pixels_per_s,
        class_skew=None if classes is None else _mean_skew(table, classes),
        chance_skew=None if classes is None else _mean_skew(table, _shuffled(classes)),
    )


def _mean_skew(table: PlanTable, classes: npt.NDArray[np.int64]) -> float:
    return float(class_skew(table.step_of_image, classes[table.images], int(classes.max()) + 1).mean())


def _shuffled(classes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return classes[Order(0, 0, Purpose.CHANCE, len(classes)).all()]
