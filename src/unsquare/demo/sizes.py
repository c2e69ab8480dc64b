"""The sizes of museum photographs, scaled down: pixel counts and aspect ratios of real photographs.

The two tables are order statistics of the 37,407 photographs of MAMe (the Museum Art Medium dataset): how
many pixels they have, and how wide against how high they are, which differs between small and large pictures.
They are all that is needed to draw sizes with the spread, skew and dependence of the real ones.

A draw is two numbers in [0, 1): a rank among pixel counts and a rank among the aspect ratios of pictures of
that size. Ranks can be stratified and given to every class alike, which sizes cannot.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unsquare.shapes import Shape

# Quantiles 0, 1/32, ..., 1 of log2(megapixels) over all of MAMe.
_LOG_MEGAPIXELS = np.array(
    [-2.00, -1.22, -0.70, 0.02, 0.56, 1.12, 1.41, 1.58, 1.77, 1.97, 2.13, 2.31, 2.53, 2.68, 2.81, 2.93, 3.02]
    + [3.13, 3.22, 3.29, 3.36, 3.42, 3.47, 3.54, 3.60, 3.68, 3.85, 4.01, 4.22, 4.45, 4.75, 5.23, 8.54]
)

# Quantiles 0, 1/16, ..., 1 of log2(width / height), one row per quartile of the pixel count.
_LOG_ASPECT = np.array(
    [
        [-3.15, -1.02, -0.81, -0.67, -0.55, -0.43, -0.33, -0.19, -0.04]
        + [0.04, 0.15, 0.28, 0.42, 0.50, 0.61, 0.94, 3.07],
        [-3.04, -0.90, -0.81, -0.66, -0.58, -0.53, -0.45, -0.34, -0.21]
        + [-0.01, 0.01, 0.15, 0.34, 0.47, 0.58, 0.81, 3.91],
        [-2.54, -0.65, -0.58, -0.56, -0.50, -0.45, -0.42, -0.38, -0.31]
        + [-0.09, 0.28, 0.40, 0.43, 0.49, 0.57, 0.60, 1.89],
        [-2.37, -0.64, -0.54, -0.46, -0.39, -0.33, -0.30, -0.19, -0.02]
        + [0.00, 0.06, 0.24, 0.32, 0.37, 0.48, 0.61, 2.30],
    ]
)

# The tails are cut to keep the demo small: at full spread one picture would outweigh a hundred others.
_MEGAPIXEL_RANGE = (1.0, 24.0)
_LOG_ASPECT_LIMIT = 1.6


def _megapixels(rank: float | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    ranks = np.linspace(0, 1, len(_LOG_MEGAPIXELS))
    return np.clip(2.0 ** np.interp(np.asarray(rank), ranks, _LOG_MEGAPIXELS), *_MEGAPIXEL_RANGE)


_MEAN_MEGAPIXELS = float(_megapixels((np.arange(4096) + 0.5) / 4096).mean())


def draw_shape(pixel_rank: float, aspect_rank: float, mean_pixels: float) -> Shape:
    """The shape at these ranks, among pictures with `mean_pixels` pixels on average.

    Args:
        pixel_rank: rank among the pixel counts, 0 for the smallest picture and 1 for the largest.
        aspect_rank: rank among the aspect ratios of pictures of that size, 0 for the tallest, 1 the widest.
        mean_pixels: mean pixel count over evenly spread ranks.
    """
    pixels = float(_megapixels(pixel_rank)) / _MEAN_MEGAPIXELS * mean_pixels
    quartile = min(int(pixel_rank * 4), 3)
    log_aspect = np.interp(aspect_rank, np.linspace(0, 1, _LOG_ASPECT.shape[1]), _LOG_ASPECT[quartile])
    aspect = 2.0 ** float(np.clip(log_aspect, -_LOG_ASPECT_LIMIT, _LOG_ASPECT_LIMIT))
    return Shape(max(8, round((pixels / aspect) ** 0.5)), max(8, round((pixels * aspect) ** 0.5)))
