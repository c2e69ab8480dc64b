"""Padding that does not count: stock CNN backbones, exact on images of every shape in one padded batch."""

from unsquare.exact.convert import make_exact, undo_exact
from unsquare.exact.model import output_regions
from unsquare.exact.pool.pyramid import SpatialPyramidPool
from unsquare.exact.pool.region import RegionPool

__all__ = ["RegionPool", "SpatialPyramidPool", "make_exact", "output_regions", "undo_exact"]
