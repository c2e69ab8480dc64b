"""The parts of training that a comparison may replace; all else uses the defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unsquare.network.classifier import Classifier
from unsquare.plan.epoch import EpochPlan
from unsquare.plan.planner import plan_epoch, plan_in_order


@dataclass(frozen=True, kw_only=True)
class Components:
    """How the network is created and how images are batched."""

    classifier: Callable[..., Classifier] = Classifier
    """Called like `Classifier`."""
    plan: Callable[..., EpochPlan] = plan_epoch
    """Called like `plan_epoch`."""
    plan_in_order: Callable[..., EpochPlan] = plan_in_order
    """Called like `plan_in_order`."""


DEFAULT = Components()
