"""The plans of a run's epochs: each has the size of its stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from unsquare.capacity.recovery import NO_CEILING
from unsquare.plan.buckets.form import Buckets
from unsquare.plan.config import Limits, PlanConfig, below
from unsquare.plan.draw import Weights
from unsquare.plan.epoch import EpochPlan
from unsquare.shapes import Geometry, Sizes
from unsquare.training.checkpoint import TrainState
from unsquare.training.evaluate import Evaluator
from unsquare.training.resolution import bound_of


@dataclass(frozen=True, kw_only=True)
class TrainingStage:
    """What the epochs of one size of pictures work with."""

    max_pixels: int | None
    """The most pixels of its pictures; None where they have their full size."""
    geometry: Geometry
    sizes: Sizes
    """Training shapes before turns, (N, 2)."""
    buckets: Buckets | None
    validation: Evaluator | None
    """Evaluates on the val split, at this stage's size; None where nothing is held out: then no epoch is the best, and
    the last one's weights are the result."""


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """The plans of a run's epochs."""

    config: PlanConfig
    turns: bool
    stages: tuple[TrainingStage, ...]
    """The stage of each epoch; that of the last one is at full size, unless pictures stopped growing before."""
    limits: Limits
    weights: Weights | None
    """How often each training image is used, (N,); None uses each once."""
    planner: Callable[..., EpochPlan]
    """Called like `plan_epoch`."""
    stage_of: Callable[[int | None], TrainingStage]
    """Makes the stage of a size, which the run's epochs may lack."""

    def resumed(self, state: TrainState) -> Epochs:
        """The same for a run that goes on from a state, perhaps for more epochs than it was started with.

        An epoch that has begun keeps its size, and later ones have at least the size that the run had reached, unless
        pictures grow no further.
        """
        epochs = self.not_below(state.epoch, state.least_pixels) if state.least_pixels else self
        epochs = epochs.not_above(state)
        if not state.step_of_epoch:
            return epochs
        begun = self.stage_of(state.max_pixels)
        return replace(epochs, stages=(*epochs.stages[: state.epoch], begun, *epochs.stages[state.epoch + 1 :]))

    def not_below(self, epoch: int, least_pixels: int) -> Epochs:
        """The same, but from an epoch on at no smaller size than that: small pictures come before large ones.

        Shares of a longer run would begin again with small pictures where the run was already at full size.
        """
        bounds = [bound_of(stage.geometry) for stage in self.stages]
        enough = min((bound, number) for number, bound in enumerate(bounds) if bound >= least_pixels)[1]
        later = (self.stages[n if bounds[n] >= least_pixels else enough] for n in range(epoch, len(bounds)))
        return replace(self, stages=(*self.stages[:epoch], *later))

    def not_above(self, state: TrainState) -> Epochs:
        """The same, but at the largest size from a state's epoch on, where it has one."""
        if state.largest_pixels is None:
            return self
        largest = self.stage_of(state.largest_pixels)
        return replace(self, stages=(*self.stages[: state.epoch], *[largest] * (len(self.stages) - state.epoch)))

    def plan(self, epoch: int, ceiling: int = NO_CEILING) -> EpochPlan:
        """The plan of an epoch; in `mixed` no micro-batch of several images is above a ceiling."""
        limits, stage = self.limits, self.stages[epoch]
        if self.config.steps == "mixed" and ceiling < limits.budget_pixels:
            limits = below(limits, ceiling)
        return self.planner(
            stage.sizes, self.config, limits, epoch, turns=self.turns, buckets=stage.buckets, weights=self.weights
        )
