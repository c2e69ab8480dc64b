"""Plan: a whole epoch as steps and micro-batches, known before any pixel is decoded. No torch, no clock."""

from unsquare.plan.analysis.ledger import BucketFigures, Ledger, ledger
from unsquare.plan.analysis.table import PlanTable
from unsquare.plan.buckets.form import Buckets, form_buckets
from unsquare.plan.config import Limits, PlanConfig
from unsquare.plan.draw import class_weights
from unsquare.plan.epoch import Bucket, EpochPlan, MicroBatch, Step
from unsquare.plan.planner import ImageOverBudgetError, plan_epoch, plan_in_order
from unsquare.plan.stream import plan_stream

__all__ = [
    "Bucket",
    "BucketFigures",
    "Buckets",
    "EpochPlan",
    "ImageOverBudgetError",
    "Ledger",
    "Limits",
    "MicroBatch",
    "PlanConfig",
    "PlanTable",
    "Step",
    "class_weights",
    "form_buckets",
    "ledger",
    "plan_epoch",
    "plan_in_order",
    "plan_stream",
]
