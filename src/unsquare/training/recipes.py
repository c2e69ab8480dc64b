"""The parts of training that a comparison may exchange; everyone else trains with the defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unsquare.network.classifier import Classifier
from unsquare.plan.epoch import EpochPlan
from unsquare.plan.planner import plan_epoch, plan_in_order


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the network is made and how images are batched."""

    classifier: Callable[..., Classifier] = Classifier
    """Called as `Classifier` is."""
    plan: Callable[..., EpochPlan] = plan_epoch
    """Called as `plan_epoch` is."""
    plan_in_order: Callable[..., EpochPlan] = plan_in_order
    """Called as `plan_in_order` is."""


DEFAULT = Recipe()
