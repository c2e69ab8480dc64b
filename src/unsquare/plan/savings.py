"""What one more canvas would save, for every place that it could have, at once.

A canvas (h, w) saves `count * (price - h * w)` on each shape that it holds and that pays more than h * w an image.
Along a row of the table of places a shape begins to save at its own width and ends where its own height already makes
the canvas too dear; down a column it begins at its height and ends where the canvas reaches its price. So each shape
adds a few numbers at the rim of its region, and running sums fill in the rest: the whole table costs what its places
and the lengths of the rims are, not places times shapes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unsquare.shapes import Sizes

Sides = npt.NDArray[np.int64]
"""Distinct heights or widths that a canvas may have, ascending."""
Counts = npt.NDArray[np.int64]
Prices = npt.NDArray[np.float64]
"""Computed pixels an image; whole numbers, so that sums below 2**53 are exact and the same on every machine."""


def savings(heights: Sides, widths: Sides, shapes: Sizes, counts: Counts, prices: Prices) -> Prices:
    """Pixels that a canvas of each height and width would save if every image took it where it is cheaper.

    Args:
        heights: the heights to be tried, (A,).
        widths: the widths to be tried, (B,).
        shapes: distinct shapes, (U, 2).
        counts: images of each shape, (U,).
        prices: pixels that an image of each shape costs now, (U,).

    Returns:
        What each place saves, (A, B), never below 0.
    """
    if len(widths) > len(heights):  # rims run along the widths: let that be the shorter side of the table
        return savings(widths, heights, shapes[:, ::-1], counts, prices).T
    height, width = np.maximum(shapes, [heights[0], widths[0]]).T
    may = np.flatnonzero((height <= heights[-1]) & (width <= widths[-1]) & (height * width < prices))
    number, price = counts[may].astype(np.float64), prices[may]
    top, left = np.searchsorted(heights, height[may]), np.searchsorted(widths, width[may])
    right = np.maximum(np.searchsorted(widths, price / heights[top]), left)
    # Every place of every shape's lower rim: (number of the shape, column), and the row where its region has ended.
    lengths = right - left
    shape = np.repeat(np.arange(len(may)), lengths)
    column = np.arange(len(shape)) + np.repeat(left - np.cumsum(lengths) + lengths, lengths)
    reach = np.minimum(np.ceil(price[shape] / widths[column]), heights[-1] + 1).astype(np.int64)
    bottom = np.cumsum(np.bincount(heights + 1))[reach]  # heights below `reach`
    stride = len(widths) + 1
    length = (len(heights) + 1) * stride

    def filled(weights: Prices) -> Prices:
        table = np.bincount(top * stride + left, weights, length) - np.bincount(top * stride + right, weights, length)
        rows = np.cumsum(table.reshape(-1, stride), axis=1)
        rows -= np.bincount(bottom * stride + column, weights[shape], length).reshape(-1, stride)
        return np.cumsum(rows, axis=0, out=rows)[:-1, :-1]

    return filled(number * price) - filled(number) * (heights[:, None] * widths)
