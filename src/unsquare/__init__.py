"""Train image classifiers on pictures as they are: high resolution, every size, every aspect ratio."""

from __future__ import annotations

import importlib
from typing import Any

from unsquare.torchvision_guard import guard_torchvision
from unsquare.version import __version__

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
    "write_report": "unsquare.report.page",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unsquare' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
