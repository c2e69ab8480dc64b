"""Any policy's epoch as columns, and the figures by which policies are set beside each other.

A rule by which others form batches gives half a million images in as many as half a million batches, so an epoch is
three arrays rather than a list of objects; ours is turned into the same arrays and measured by the same function.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unsquare.plan.config import Limits
from unsquare.plan.draw import Order, Purpose
from unsquare.plan.epoch import EpochPlan, MicroBatch, Positions
from unsquare.plan.ledger import class_skew
from unsquare.shapes import Shape, Sizes


@dataclass(frozen=True, eq=False)
class Batches:
    """An epoch's batches in order of training, as columns; iterating gives micro-batches."""

    images: Positions
    """Positions in the sizes, batch after batch, (n,)."""
    counts: Positions
    """Images of each batch, (M,)."""
    canvases: Sizes
    """Height and width of each batch, (M, 2)."""
    steps: Positions
    """Number of the optimizer step that each batch belongs to, (M,), ascending from 0."""

    @classmethod
    def tight(cls, sizes: Sizes, images: Positions, counts: Positions) -> Batches:
        """Consecutive runs of `images`, each padded to its largest height and width and a step by itself."""
        starts = np.cumsum(counts) - counts
        return cls.on(np.maximum.reduceat(sizes[images], starts, axis=0), images, counts)

    @classmethod
    def on(cls, canvases: Sizes, images: Positions, counts: Positions) -> Batches:
        """Consecutive runs of `images` on these canvases, each a step by itself."""
        return cls(images=images, counts=counts, canvases=canvases, steps=np.arange(len(counts)))

    @classmethod
    def of(cls, micro_batches: Iterable[MicroBatch]) -> Batches:
        """The columns of micro-batches, each a step by itself."""
        if isinstance(micro_batches, Batches):
            return micro_batches
        given = list(micro_batches)
        canvases = np.array([item.canvas for item in given], dtype=np.int64)
        counts = np.array([len(item.images) for item in given], dtype=np.int64)
        return cls.on(canvases, np.concatenate([item.images for item in given]), counts)

    @classmethod
    def of_plan(cls, plan: EpochPlan) -> Batches:
        """The columns of a plan, a step of which may have several micro-batches."""
        given: list[MicroBatch] = []
        steps: list[int] = []
        for number, step in enumerate(plan.steps):
            given += step.micro_batches
            steps += [number] * len(step.micro_batches)
        flat = cls.of(given)
        return cls(images=flat.images, counts=flat.counts, canvases=flat.canvases, steps=np.array(steps))

    @property
    def computed_pixels(self) -> Positions:
        """Computed pixels of each batch, (M,)."""
        return self.canvases.prod(axis=1) * self.counts

    @property
    def step_of_image(self) -> Positions:
        """Number of the step of each of `images`, (n,)."""
        return np.repeat(self.steps, self.counts)

    def in_order(self, order: Positions) -> Batches:
        """The same batches in another order, each a step by itself; `order` has the M numbers."""
        starts = (np.cumsum(self.counts) - self.counts)[order]
        counts = self.counts[order]
        within = np.arange(len(self.images)) - np.repeat(np.cumsum(counts) - counts, counts)
        return Batches.on(self.canvases[order], self.images[np.repeat(starts, counts) + within], counts)

    def cost(self, limits: Limits) -> int:
        """Computed pixels plus a launch for each batch: predicted time in units of one pixel's."""
        return int(limits.priced(self.computed_pixels).sum()) + limits.launch_pixels * len(self)

    def num_over(self, limits: Limits) -> int:
        """How many batches have more computed pixels than the budget, or one image and more than the ladder holds."""
        held = np.where(self.counts == 1, limits.largest_pixels, limits.budget_pixels)
        return int((self.computed_pixels > held).sum())

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[MicroBatch]:
        parts = np.split(self.images, np.cumsum(self.counts)[:-1])
        return (MicroBatch(images=part, canvas=Shape(*map(int, c))) for part, c in zip(parts, self.canvases))


@dataclass(frozen=True, kw_only=True)
class PolicyFigures:
    """What an epoch under one policy computes and wastes."""

    name: str
    shuffled: bool
    """Whether an epoch's batches are drawn anew."""
    padding_overhead: float
    """Computed pixels / real pixels - 1; for a policy that resizes, against the pixels there were."""
    num_micro_batches: int
    num_canvases: int
    """Distinct canvases: what a device plans or compiles for."""
    num_over_budget: int
    """Micro-batches of more computed pixels than the budget: each would run out of memory."""
    mean_fill: float
    """Computed pixels of a micro-batch / budget, averaged over micro-batches."""
    predicted_s: float
    """Seconds of the epoch: (computed pixels + a launch for each micro-batch) / pixels per second."""
    class_skew: float | None
    """Total variation distance of a step's class mix from the dataset's, mean of steps; None unlabelled."""
    chance_skew: float | None
    """The same with labels shuffled: small steps are skewed by chance alone."""


def figures_of(
    name: str,
    shuffled: bool,
    batches: Iterable[MicroBatch],
    sizes: npt.ArrayLike,
    limits: Limits,
    labels: npt.ArrayLike | None = None,
) -> PolicyFigures:
    """The figures of one epoch.

    Args:
        name: the policy's.
        shuffled: whether its batches are drawn anew each epoch.
        batches: the epoch, as columns or as micro-batches (each then counts as a step).
        sizes: shapes of the images, (N, 2).
        limits: the budget that batches are held against, the price of a launch, and the speed.
        labels: class of each image, (N,), -1 where unknown; None leaves skew out.
    """
    flat, shapes = Batches.of(batches), np.asarray(sizes, dtype=np.int64)
    classes = None if labels is None else np.asarray(labels, dtype=np.int64)
    if classes is not None and classes.max() < 0:
        classes = None
    computed = flat.computed_pixels
    return PolicyFigures(
        name=name,
        shuffled=shuffled,
        padding_overhead=float(computed.sum() / shapes.prod(axis=1).sum() - 1),
        num_micro_batches=len(flat),
        num_canvases=len(np.unique(flat.canvases, axis=0)),
        num_over_budget=flat.num_over(limits),
        mean_fill=float(limits.fill(computed).mean()),
        predicted_s=flat.cost(limits) / limits.pixels_per_s,
        class_skew=None if classes is None else _mean_skew(flat, classes),
        chance_skew=None if classes is None else _mean_skew(flat, _shuffled(classes)),
    )


def _mean_skew(flat: Batches, classes: npt.NDArray[np.int64]) -> float:
    return float(class_skew(flat.step_of_image, classes[flat.images], int(classes.max()) + 1).mean())


def _shuffled(classes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return classes[Order(0, 0, Purpose.CHANCE, len(classes)).all()]
