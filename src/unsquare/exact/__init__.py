"""Padding that does not count: stock CNN backbones, exact on images of every shape in one padded batch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unsquare.exact.convert import make_exact, undo_exact
    from unsquare.exact.model import output_regions
    from unsquare.exact.pool.pyramid import SpatialPyramidPool
    from unsquare.exact.pool.region import RegionPool

__all__ = ["RegionPool", "SpatialPyramidPool", "make_exact", "output_regions", "undo_exact"]

# Loaded at first use: settings name the kinds of pools without torch.
_HOMES = {
    "RegionPool": "pool.region",
    "SpatialPyramidPool": "pool.pyramid",
    "make_exact": "convert",
    "output_regions": "model",
    "undo_exact": "convert",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unsquare.exact' has no attribute {name!r}")
    return getattr(importlib.import_module(f"unsquare.exact.{_HOMES[name]}"), name)
