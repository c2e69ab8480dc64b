"""Padding that does not count: stock CNN backbones, exact on images of every shape in one padded batch."""

from unsquare.exact.convert import make_exact, output_regions
from unsquare.exact.pyramid import SpatialPyramidPool

__all__ = ["SpatialPyramidPool", "make_exact", "output_regions"]
