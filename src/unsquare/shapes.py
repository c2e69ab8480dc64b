"""Shapes of images, the user's rule for changing them, and the arithmetic of convolution on them.

A shape is (height, width) in pixels, height first. Everything here works on arrays of shapes, (..., 2)
integers, so that planning a dataset of any length is a few NumPy calls; `Shape` is the scalar form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unsquare.errors import ConfigError, UnsquareError
from unsquare.settings import PixelCount, Range, check_settings, checked, received

MOST_SIDE = (1 << 31) - 1
"""The longest side in pixels: the product of two fits into 64 bits."""

Sizes = npt.NDArray[np.int64]
"""Array of shapes, (N, 2) int64: height, width."""

_Side = Annotated[int, Range(1, MOST_SIDE)]


class Shape(NamedTuple):
    """The height and width of an image or canvas in pixels.

    Example:
        >>> shape = unsquare.Shape(height=480, width=640)
        >>> shape.pixels
        307200
        >>> print(shape)
        480 x 640
    """

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
    """The size of a picture in training, from the size of its file. The default keeps every pixel.

    Applied in the order of the fields; every one of them preserves the aspect ratio (to rounding).

    Example:
        >>> geometry = unsquare.Geometry(max_pixels=1_000_000)
        >>> geometry.resize([(3000, 4000), (480, 640)]).tolist()
        [[866, 1154], [480, 640]]
    """

    scale: Annotated[float, Range(above=0, most=64)] = 1.0
    """Scale factor of both sides. 1 keeps the picture as it is; above 64 nothing but blur is added."""
    max_pixels: Annotated[PixelCount, Range(1, MOST_SIDE)] | None = None
    """Shrink larger pictures to this size, such as 16MP. None shrinks nothing. The range ends where pictures are no
    longer decoded."""
    min_side: Annotated[int, Range(0, 1 << 16)] = 0
    """Enlarge pictures until their shorter side has this many pixels. 0 enlarges nothing. At 65,536 each picture would
    have four billion pixels."""
    crop_fraction: Annotated[float, Range(above=0, most=1)] = 1.0
    """Fraction of each side that the random crop in training keeps. In (0, 1]; evaluation sees the whole picture."""

    def __post_init__(self) -> None:
        check_settings(self)

    def resize(self, sizes: npt.ArrayLike) -> Sizes:
        """Shapes to which the whole pictures are resized, (..., 2), from file shapes (..., 2)."""
        original = checked_sizes(sizes)
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
        resized = checked_sizes(sizes)
        if self.crop_fraction == 1:
            return resized
        return np.maximum(1, np.rint(resized * self.crop_fraction)).astype(np.int64)


def scaled(sizes: Sizes, scales: npt.NDArray[np.float64]) -> Sizes:
    """Shapes (N, 2) with both sides scaled by (N,) factors, at least one pixel each."""
    return np.maximum(1, np.rint(np.asarray(sizes) * scales[:, None])).astype(np.int64)


def checked_sizes(sizes: npt.ArrayLike, error: type[UnsquareError] = ConfigError) -> Sizes:
    """Shapes (..., 2) as whole numbers of pixels.

    Raises:
        UnsquareError: of the type `error`; they are not shapes.
    """
    return checked_sides(_shape_array(sizes, error), error)


def shape_rows(sizes: npt.ArrayLike, error: type[UnsquareError]) -> npt.NDArray[Any]:
    """Shapes (N, 2) as an array of numbers whose values are not checked, since they may be in a file.

    Raises:
        UnsquareError: of the type `error`; it is not an array of heights and widths.
    """
    return _shape_array(sizes, error, axes=2)


def _shape_array(sizes: npt.ArrayLike, error: type[UnsquareError], axes: int | None = None) -> npt.NDArray[Any]:
    try:
        found = np.asarray(sizes)
    except (ValueError, TypeError, RuntimeError):  # rows of unequal length, a tensor on a GPU
        found = np.empty(())
    if found.shape == (0,):  # an empty list
        return np.empty((0, 2), dtype=np.int64)
    if found.dtype.kind not in "iuf" or found.shape[-1:] != (2,) or axes not in (None, found.ndim):
        what = f"{found.shape} {found.dtype}" if found.ndim and found.dtype.kind != "O" else received(sizes)
        raise error(
            f"Shapes must be (N, 2) numbers on the host, a height and a width for each image, but are {what}; give a "
            "row for each image."
        )
    return found


def checked_sides(sizes: npt.NDArray[Any], error: type[UnsquareError]) -> Sizes:
    """The shapes as int64, each side a whole number from 1 to `MOST_SIDE`.

    Raises:
        UnsquareError: of the type `error`; a side is not.
    """
    least, most = sizes.min(initial=1), sizes.max(initial=1)
    if not (least >= 1 and most <= MOST_SIDE):  # also false for NaN
        wrong = least if not least >= 1 else most
        raise error(f"Sides must be at least 1 pixel and at most {MOST_SIDE:,}, but one is {wrong}; leave it out.")
    if sizes.dtype.kind == "f" and (sizes != np.rint(sizes)).any():
        raise error(f"Sides must be whole pixels, but one is {sizes[sizes != np.rint(sizes)][0]}; round them.")
    return sizes.astype(np.int64, copy=False)


def checked_shape(shape: Any, name: str) -> Shape:
    """A height and a width as a shape.

    Raises:
        ConfigError: they are not.
    """
    return Shape(*checked(tuple[_Side, _Side], shape, name))


def _shrink(sizes: Sizes, max_pixels: int) -> Sizes:
    pixels = sizes[..., 0] * sizes[..., 1].astype(np.float64)  # the product of scaled sides may exceed 64 bits
    factor = np.sqrt(max_pixels / np.maximum(pixels, 1))[..., None]
    shrunk = np.maximum(1, np.floor(sizes * factor)).astype(np.int64)
    # A strip one pixel wide cannot shrink along that side; the other side shrinks by all of it.
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
