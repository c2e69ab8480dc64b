"""Train image classifiers on pictures as they are: high resolution, every size, every aspect ratio."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from unsquare.torchvision_guard import guard_torchvision
from unsquare.version import __version__

if TYPE_CHECKING:
    from unsquare.api import compare as compare
    from unsquare.api import cross_validate as cross_validate
    from unsquare.api import evaluate as evaluate
    from unsquare.api import predict as predict
    from unsquare.api import profile as profile
    from unsquare.api import resume as resume
    from unsquare.api import train as train
    from unsquare.data.augment import AugmentConfig as AugmentConfig
    from unsquare.data.collate import PadCollate as PadCollate
    from unsquare.data.duplicates import find_duplicates as find_duplicates
    from unsquare.data.loader import BatchLoader as BatchLoader
    from unsquare.data.loader import PaddedBatch as PaddedBatch
    from unsquare.data.loader import UndecodableError as UndecodableError
    from unsquare.data.sampler import StepSampler as StepSampler
    from unsquare.data.step_loader import RankStep as RankStep
    from unsquare.data.step_loader import StepLoader as StepLoader
    from unsquare.errors import BudgetError as BudgetError
    from unsquare.errors import ConfigError as ConfigError
    from unsquare.errors import ExactError as ExactError
    from unsquare.errors import ImageError as ImageError
    from unsquare.errors import PlanError as PlanError
    from unsquare.errors import RunError as RunError
    from unsquare.errors import SourceError as SourceError
    from unsquare.errors import StaleImageError as StaleImageError
    from unsquare.errors import UnsquareError as UnsquareError
    from unsquare.errors import UsageError as UsageError
    from unsquare.exact.convert import make_exact as make_exact
    from unsquare.exact.convert import undo_exact as undo_exact
    from unsquare.exact.model import output_regions as output_regions
    from unsquare.exact.pool.pyramid import SpatialPyramidPool as SpatialPyramidPool
    from unsquare.exact.pool.region import RegionPool as RegionPool
    from unsquare.exact.verify.comparison import ExactnessErrors as ExactnessErrors
    from unsquare.exact.verify.verification import Verification as Verification
    from unsquare.exact.verify.verification import verify_exact as verify_exact
    from unsquare.index.alike import Duplicate as Duplicate
    from unsquare.index.choices import Choices as Choices
    from unsquare.index.remarks import find_remarks as find_remarks
    from unsquare.index.scan import scan_source as scan_source
    from unsquare.index.table import Problem as Problem
    from unsquare.index.table import Remark as Remark
    from unsquare.index.table import ShapeIndex as ShapeIndex
    from unsquare.index.targets import TaskConfig as TaskConfig
    from unsquare.network.config import DeviceConfig as DeviceConfig
    from unsquare.network.config import ModelConfig as ModelConfig
    from unsquare.network.config import OptimizerConfig as OptimizerConfig
    from unsquare.plan.buckets.form import Buckets as Buckets
    from unsquare.plan.buckets.form import form_buckets as form_buckets
    from unsquare.plan.config import Fallback as Fallback
    from unsquare.plan.config import Limits as Limits
    from unsquare.plan.config import PlanConfig as PlanConfig
    from unsquare.plan.draw import class_weights as class_weights
    from unsquare.plan.epoch import Bucket as Bucket
    from unsquare.plan.epoch import EpochPlan as EpochPlan
    from unsquare.plan.epoch import MicroBatch as MicroBatch
    from unsquare.plan.epoch import Step as Step
    from unsquare.plan.planner import ImageOverBudgetError as ImageOverBudgetError
    from unsquare.plan.planner import plan_epoch as plan_epoch
    from unsquare.plan.stream import plan_stream as plan_stream
    from unsquare.report.run.page import write_report as write_report
    from unsquare.runs.folds import CrossValidation as CrossValidation
    from unsquare.runs.per_class import ClassFigures as ClassFigures
    from unsquare.runs.schemas import ComparisonResult as ComparisonResult
    from unsquare.runs.schemas import ProfileResult as ProfileResult
    from unsquare.shapes import Geometry as Geometry
    from unsquare.shapes import Shape as Shape
    from unsquare.training.config import SavingConfig as SavingConfig
    from unsquare.training.config import TrainConfig as TrainConfig
    from unsquare.training.loop import Stopped as Stopped
    from unsquare.training.metrics import Evaluation as Evaluation
    from unsquare.training.predictor import Prediction as Prediction
    from unsquare.training.predictor import Predictor as Predictor
    from unsquare.training.resolution import ResolutionConfig as ResolutionConfig
    from unsquare.training.schedule import LearningRateConfig as LearningRateConfig
else:  # type checkers do not see it, so that they know which names there are

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'unsquare' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)


guard_torchvision()

# Loaded at first use, so that planning on a laptop does not wait for torch.
_HOMES = {
    "AugmentConfig": "unsquare.data.augment",
    "BatchLoader": "unsquare.data.loader",
    "Bucket": "unsquare.plan.epoch",
    "Buckets": "unsquare.plan.buckets.form",
    "BudgetError": "unsquare.errors",
    "Choices": "unsquare.index.choices",
    "ClassFigures": "unsquare.runs.per_class",
    "ComparisonResult": "unsquare.runs.schemas",
    "ConfigError": "unsquare.errors",
    "CrossValidation": "unsquare.runs.folds",
    "DeviceConfig": "unsquare.network.config",
    "Duplicate": "unsquare.index.alike",
    "EpochPlan": "unsquare.plan.epoch",
    "Evaluation": "unsquare.training.metrics",
    "ExactError": "unsquare.errors",
    "ExactnessErrors": "unsquare.exact.verify.comparison",
    "Fallback": "unsquare.plan.config",
    "Geometry": "unsquare.shapes",
    "ImageError": "unsquare.errors",
    "ImageOverBudgetError": "unsquare.plan.planner",
    "LearningRateConfig": "unsquare.training.schedule",
    "Limits": "unsquare.plan.config",
    "MicroBatch": "unsquare.plan.epoch",
    "ModelConfig": "unsquare.network.config",
    "OptimizerConfig": "unsquare.network.config",
    "PadCollate": "unsquare.data.collate",
    "PaddedBatch": "unsquare.data.loader",
    "PlanConfig": "unsquare.plan.config",
    "PlanError": "unsquare.errors",
    "Prediction": "unsquare.training.predictor",
    "Predictor": "unsquare.training.predictor",
    "Problem": "unsquare.index.table",
    "ProfileResult": "unsquare.runs.schemas",
    "RankStep": "unsquare.data.step_loader",
    "RegionPool": "unsquare.exact.pool.region",
    "Remark": "unsquare.index.table",
    "ResolutionConfig": "unsquare.training.resolution",
    "RunError": "unsquare.errors",
    "SavingConfig": "unsquare.training.config",
    "Shape": "unsquare.shapes",
    "ShapeIndex": "unsquare.index.table",
    "SourceError": "unsquare.errors",
    "SpatialPyramidPool": "unsquare.exact.pool.pyramid",
    "StaleImageError": "unsquare.errors",
    "Step": "unsquare.plan.epoch",
    "StepLoader": "unsquare.data.step_loader",
    "StepSampler": "unsquare.data.sampler",
    "Stopped": "unsquare.training.loop",
    "TaskConfig": "unsquare.index.targets",
    "TrainConfig": "unsquare.training.config",
    "UndecodableError": "unsquare.data.loader",
    "UnsquareError": "unsquare.errors",
    "UsageError": "unsquare.errors",
    "Verification": "unsquare.exact.verify.verification",
    "class_weights": "unsquare.plan.draw",
    "compare": "unsquare.api",
    "cross_validate": "unsquare.api",
    "evaluate": "unsquare.api",
    "find_duplicates": "unsquare.data.duplicates",
    "find_remarks": "unsquare.index.remarks",
    "form_buckets": "unsquare.plan.buckets.form",
    "make_exact": "unsquare.exact.convert",
    "output_regions": "unsquare.exact.model",
    "plan_epoch": "unsquare.plan.planner",
    "plan_stream": "unsquare.plan.stream",
    "predict": "unsquare.api",
    "profile": "unsquare.api",
    "resume": "unsquare.api",
    "scan_source": "unsquare.index.scan",
    "train": "unsquare.api",
    "undo_exact": "unsquare.exact.convert",
    "verify_exact": "unsquare.exact.verify.verification",
    "write_report": "unsquare.report.run.page",
}

__all__ = ["__version__", *_HOMES]


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
