"""Smooth random fields, from which every texture and background here is made.

A field is a small grid of normal numbers, enlarged and turned in one bicubic resampling (Pillow's affine
transform): a few milliseconds per picture, where filtering white noise at full size would take a hundred.
"""

from __future__ import annotations

from math import ceil, cos, hypot, sin

import numpy as np
import numpy.typing as npt
from PIL import Image

from unsquare.shapes import Shape

Field = npt.NDArray[np.float32]
"""One value per pixel, (H, W) float32."""


def smooth_noise(
    rng: np.random.Generator, shape: Shape, cell: float, *, stretch: float = 1.0, angle: float = 0.0
) -> Field:
    """A random field of about zero mean and unit variance, with features `cell` pixels wide.

    Args:
        rng: source of the random numbers.
        shape: height and width of the field.
        cell: distance between independent values, in pixels.
        stretch: how much longer than wide a feature is.
        angle: direction of the long side against the x axis, in radians.
    """
    reach = hypot(shape.height, shape.width)
    along, across = cell * stretch, cell
    columns, rows = ceil(reach / along) + 6, ceil(reach / across) + 6
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    # Output pixel (x, y) reads the grid at (c0 x + c1 y + c2, c3 x + c4 y + c5); the centers of both meet.
    c0, c1 = cos(angle) / along, sin(angle) / along
    c3, c4 = -sin(angle) / across, cos(angle) / across
    c2 = columns / 2 - c0 * shape.width / 2 - c1 * shape.height / 2
    c5 = rows / 2 - c3 * shape.width / 2 - c4 * shape.height / 2
    image = Image.fromarray(grid).transform(
        (shape.width, shape.height),
        Image.Transform.AFFINE,
        (c0, c1, c2, c3, c4, c5),
        resample=Image.Resampling.BICUBIC,
    )
    return standardize(np.asarray(image, dtype=np.float32))


def standardize(field: npt.NDArray[np.floating]) -> Field:
    """The field with zero mean and unit variance."""
    centered = field - field.mean()
    return (centered / max(float(centered.std()), 1e-6)).astype(np.float32)


def enlarge(field: Field, shape: Shape) -> Field:
    """The field resampled to a larger shape, bicubic."""
    image = Image.fromarray(field).resize((shape.width, shape.height), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32)
