"""Train image classifiers on pictures as they are: high resolution, every size, every aspect ratio."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from unsquare.torchvision_guard import guard_torchvision
from unsquare.version import __version__

if TYPE_CHECKING:
    from unsquare.api import evaluate as evaluate
    from unsquare.api import predict as predict
    from unsquare.api import profile as profile
    from unsquare.api import resume as resume
    from unsquare.api import train as train
    from unsquare.data.collate import PadCollate as PadCollate
    from unsquare.data.loader import BatchLoader as BatchLoader
    from unsquare.data.sampler import StepSampler as StepSampler
    from unsquare.data.step_loader import StepLoader as StepLoader
    from unsquare.errors import UnsquareError as UnsquareError
    from unsquare.exact.convert import make_exact as make_exact
    from unsquare.exact.convert import undo_exact as undo_exact
    from unsquare.exact.model import output_regions as output_regions
    from unsquare.exact.pool.pyramid import SpatialPyramidPool as SpatialPyramidPool
    from unsquare.exact.pool.region import RegionPool as RegionPool
    from unsquare.exact.verify.verification import verify_exact as verify_exact
    from unsquare.index.choices import Choices as Choices
    from unsquare.index.remarks import find_remarks as find_remarks
    from unsquare.index.scan import scan_source as scan_source
    from unsquare.index.table import ShapeIndex as ShapeIndex
    from unsquare.plan.config import Limits as Limits
    from unsquare.plan.config import PlanConfig as PlanConfig
    from unsquare.plan.planner import plan_epoch as plan_epoch
    from unsquare.plan.stream import plan_stream as plan_stream
    from unsquare.report.run.page import write_report as write_report
    from unsquare.shapes import Geometry as Geometry
    from unsquare.shapes import Shape as Shape
    from unsquare.training.config import TrainConfig as TrainConfig
    from unsquare.training.predictor import Predictor as Predictor

guard_torchvision()

# Loaded at first use, so that planning on a laptop does not wait for torch.
_HOMES = {
    "BatchLoader": "unsquare.data.loader",
    "Choices": "unsquare.index.choices",
    "Geometry": "unsquare.shapes",
    "Limits": "unsquare.plan.config",
    "PadCollate": "unsquare.data.collate",
    "PlanConfig": "unsquare.plan.config",
    "Predictor": "unsquare.training.predictor",
    "RegionPool": "unsquare.exact.pool.region",
    "Shape": "unsquare.shapes",
    "ShapeIndex": "unsquare.index.table",
    "SpatialPyramidPool": "unsquare.exact.pool.pyramid",
    "StepLoader": "unsquare.data.step_loader",
    "StepSampler": "unsquare.data.sampler",
    "TrainConfig": "unsquare.training.config",
    "UnsquareError": "unsquare.errors",
    "evaluate": "unsquare.api",
    "find_remarks": "unsquare.index.remarks",
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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unsquare' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
