"""Shapes of images, the user's rule for changing them, and the arithmetic of convolution on them.

A shape is (height, width) in pixels, height first. Everything here works on arrays of shapes, (..., 2)
integers, so that planning a dataset of any length is a few NumPy calls; `Shape` is the scalar form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unsquare.errors import ConfigError

Sizes = npt.NDArray[np.int64]
"""Array of shapes, (N, 2) int64: height, width."""


class Shape(NamedTuple):
    """The height and width of an image or canvas in pixels."""

    height: int
    width: int

    @property
    def pixels(self) -> int:
        """The number of pixels, height x width."""
        return self.height * self.width

    def __str__(self) -> str:
        return f"{self.height} x {self.width}"


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The user's rule from file shape to training shape. The default keeps every pixel.

    Applied in the order of the fields; the aspect ratio is kept throughout (to rounding).
    """

    scale: float = 1.0
    """Factor on both sides; 1 keeps the picture as it is."""
    max_pixels: int | None = None
    """Pictures with more pixels than this shrink to at most this many; None shrinks nothing."""
    min_side: int = 0
    """Pictures whose shorter side is below this, in pixels, grow until it is reached; 0 enlarges nothing."""
    crop_fraction: float = 1.0
    """Part of each side kept by the random crop of training, in (0, 1]; evaluation sees the whole picture."""

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 64:
            raise ConfigError(f"scale must be above 0 and at most 64, but is {self.scale}; use 1 for no change.")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise ConfigError(f"max_pixels must be at least 1, but is {self.max_pixels}; leave it out for no limit.")
        if self.min_side < 0:
            raise ConfigError(f"min_side must be at least 0, but is {self.min_side}.")
        if not 0 < self.crop_fraction <= 1:
            raise ConfigError(f"crop_fraction must be above 0 and at most 1, but is {self.crop_fraction}.")

    def resize(self, sizes: npt.ArrayLike) -> Sizes:
        """Shapes to which the whole pictures are resized, (..., 2), from file shapes (..., 2)."""
        original = np.asarray(sizes, dtype=np.int64)
        out = original
        if self.scale != 1:
            out = np.maximum(1, np.rint(out * self.scale)).astype(np.int64)
        if self.max_pixels is not None:
            out = _shrink(out, self.max_pixels)
        if self.min_side:
            short = out.min(axis=-1, keepdims=True)
            grown = np.maximum(self.min_side, np.rint(out * (self.min_side / short))).astype(np.int64)
            out = np.where(short < self.min_side, grown, out)
        return out

    def crop(self, sizes: npt.ArrayLike) -> Sizes:
        """Shapes after the training crop, (..., 2), from resized shapes (..., 2)."""
        resized = np.asarray(sizes, dtype=np.int64)
        if self.crop_fraction == 1:
            return resized
        return np.maximum(1, np.rint(resized * self.crop_fraction)).astype(np.int64)


def _shrink(sizes: Sizes, max_pixels: int) -> Sizes:
    pixels = sizes[..., 0] * sizes[..., 1]
    factor = np.sqrt(max_pixels / np.maximum(pixels, 1))[..., None]
    shrunk = np.maximum(1, np.floor(sizes * factor)).astype(np.int64)
    # A strip one pixel wide cannot shrink along that side; the other side takes all of it.
    shrunk = np.where(shrunk[..., ::-1] == 1, np.minimum(shrunk, max_pixels), shrunk)
    return np.where((pixels > max_pixels)[..., None], shrunk, sizes)


class Window(NamedTuple):
    """One sliding operation along one axis: a convolution or a pooling."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    ceil_mode: bool = False

    def output(self, length: int) -> int:
        """The output length for an input of this length; at most 0 where the window does not fit.

        As in PyTorch: with `ceil_mode`, a last window that would start in the right padding is dropped.
        """
        span = length + 2 * self.padding - self.dilation * (self.kernel - 1) - 1
        if not self.ceil_mode:
            return span // self.stride + 1
        out = -(-span // self.stride) + 1
        if (out - 1) * self.stride >= length + self.padding:
            out -= 1
        return out
