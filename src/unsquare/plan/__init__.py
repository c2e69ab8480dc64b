"""Plan: a whole epoch as steps and micro-batches, known before any pixel is decoded. No torch, no clock."""

from unsquare.plan.buckets import Buckets, form_buckets
from unsquare.plan.config import Limits, PlanConfig
from unsquare.plan.epoch import Bucket, EpochPlan, MicroBatch, Step
from unsquare.plan.ledger import BucketRow, Ledger, ledger
from unsquare.plan.planner import ImageOverBudgetError, plan_epoch, plan_in_order
from unsquare.plan.repeats import class_weights
from unsquare.plan.stream import plan_stream

__all__ = [
    "Bucket",
    "BucketRow",
    "Buckets",
    "EpochPlan",
    "ImageOverBudgetError",
    "Ledger",
    "Limits",
    "MicroBatch",
    "PlanConfig",
    "Step",
    "class_weights",
    "form_buckets",
    "ledger",
    "plan_epoch",
    "plan_in_order",
    "plan_stream",
]
