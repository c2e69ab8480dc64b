"""Models of a micro-batch's bytes and seconds: linear in its computed pixels and its images.

For a convolutional network both grow with the pixels computed, whether as many small images or few large ones, above a
fixed part: weights and optimizer state, or the launch of kernels. Each image adds a little memory for its pooled vector
and the pyramid's workspace, which counts where images are thumbnails. Heights and widths were measured to make no
difference (docs/experiments.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from unsquare.errors import ConfigError

INPUT_BYTES_PER_PIXEL = 12.0
"""Three fp32 channels: every network needs at least this much, so no fitted model predicts less."""
KEPT_FACTOR = 2.0
"""Growth of a micro-batch where the allocator keeps freed memory, relative to where it does not; at most 1.41 was
measured."""
UNBOUNDED_PIXELS = 2**40
"""Stands for "any number" where a line is flat; planning stays in int64."""

Values = npt.NDArray[np.float64]
Amount = Annotated[float, Meta(ge=0, le=1e20)]
"""Bytes or seconds, as a file of a run may hold them."""


@dataclass(frozen=True)
class MemoryModel:
    """Peak bytes of one micro-batch: `fixed_bytes + bytes_per_pixel * pixels + bytes_per_image * images`."""

    fixed_bytes: Amount
    """Bytes held whatever the micro-batch: weights, gradients, optimizer state."""
    bytes_per_pixel: Amount
    """Bytes for each computed pixel more: activations kept for the backward pass and workspace."""
    bytes_per_image: Amount = 0.0
    """Bytes for each image more, whatever its size."""

    def __post_init__(self) -> None:
        for name in _MEMORY_FIELDS:
            _require_finite(name, getattr(self, name))

    def growth_bytes(self, pixels: float, images: float = 1) -> float:
        """Bytes that a micro-batch of this many computed pixels and images adds to the fixed part."""
        return self.bytes_per_pixel * pixels + self.bytes_per_image * images

    def peak_bytes(self, pixels: int, images: int = 1) -> int:
        """Peak bytes of a micro-batch of this many computed pixels and images, rounded up."""
        return math.ceil(self.fixed_bytes + self.growth_bytes(pixels, images))

    def largest_pixels(self, budget_bytes: int, images: int = 1) -> int:
        """The most computed pixels within the budget, for any number of images up to this one; 0 where none fit."""
        if self.peak_bytes(1, images) > budget_bytes:
            return 0
        if self.peak_bytes(UNBOUNDED_PIXELS, images) <= budget_bytes:
            return UNBOUNDED_PIXELS
        pixels = int((budget_bytes - self.peak_bytes(0, images)) / self.bytes_per_pixel)
        while self.peak_bytes(pixels, images) > budget_bytes:
            pixels -= 1
        return max(pixels, 1)

    @classmethod
    def fit(
        cls, pixels: npt.ArrayLike, images: npt.ArrayLike, peak_bytes: npt.ArrayLike, *, bends: bool = False
    ) -> MemoryModel:
        """The least-squares plane through measured peaks, lifted until no measured point lies above it.

        Lifted rather than tilted (as the upper convex hull would be), because the largest micro-batches lie beyond the
        probes, and a slope from two noisy points is off in proportion to that distance. A single pixel count gives the
        line through the origin, which errs upward beyond it.

        Args:
            pixels: computed pixels of each probe, (n,).
            images: number of images in each probe, (n,).
            peak_bytes: measured peak of each probe, (n,).
            bends: whether peaks may grow faster above some size, as the maximum of several lines does; then the slope
                is at least that between the largest pixel count and the largest count of at most half of it.
        """
        x, y = _measured(pixels, peak_bytes)
        count = np.asarray(images, dtype=np.float64)
        assert count.shape == x.shape, "one number of images for each pixel count"
        per_pixel, per_image = _slopes(x, count, y)
        if bends:
            per_pixel = max(per_pixel, _last_slope(x, y))
        per_pixel = max(per_pixel, INPUT_BYTES_PER_PIXEL)
        fixed = max(0.0, float((y - per_pixel * x - per_image * count).max()))
        return cls(fixed_bytes=fixed, bytes_per_pixel=per_pixel, bytes_per_image=per_image)


_MEMORY_FIELDS = ("fixed_bytes", "bytes_per_pixel", "bytes_per_image")


@dataclass(frozen=True)
class TimeModel:
    """Seconds of one micro-batch, forward and backward: `fixed_s + s_per_pixel * pixels`."""

    fixed_s: Amount
    """Seconds of even the smallest micro-batch: kernel launches, Python, parts that do not grow."""
    s_per_pixel: Amount
    """Seconds for each additional computed pixel."""

    def __post_init__(self) -> None:
        _require_finite("fixed_s", self.fixed_s)
        _require_finite("s_per_pixel", self.s_per_pixel)

    def seconds(self, pixels: int) -> float:
        """Seconds of a micro-batch of this many computed pixels."""
        return self.fixed_s + self.s_per_pixel * pixels

    @property
    def launch_pixels(self) -> int:
        """The cost of one more micro-batch: the computed pixels that take as long as the fixed part."""
        if self.fixed_s >= self.s_per_pixel * UNBOUNDED_PIXELS:
            return UNBOUNDED_PIXELS if self.fixed_s else 0
        return int(self.fixed_s / self.s_per_pixel)

    @classmethod
    def fit(cls, pixels: npt.ArrayLike, seconds: npt.ArrayLike) -> TimeModel:
        """The line with the least squared relative error through measured times, both terms at least 0.

        Relative, because clocks err in proportion; with absolute errors the largest probe would decide alone, and the
        fixed part, which only small probes show, would be noise.

        Args:
            pixels: computed pixels of each probe, (n,).
            seconds: measured time of each probe, (n,), above 0.
        """
        x, y = _measured(pixels, seconds)
        columns = np.stack([1 / y, x / y], axis=1)  # (n, 2): relative weight of the fixed part, of the pixels
        proportional = columns[:, 1].sum() / (columns[:, 1] ** 2).sum()
        candidates = [(0.0, float(proportional))]  # a fixed part alone would mean that pixels cost nothing
        if np.ptp(x):
            scale = np.linalg.norm(columns, axis=0)
            free = np.linalg.lstsq(columns / scale, np.ones(len(x)), rcond=None)[0] / scale
            if free[0] >= 0 and free[1] > 0:
                candidates.append((float(free[0]), float(free[1])))
        errors = [float(((columns @ np.array(line) - 1) ** 2).sum()) for line in candidates]
        fixed_s, s_per_pixel = candidates[int(np.argmin(errors))]
        return cls(fixed_s=float(fixed_s), s_per_pixel=float(s_per_pixel))


def _slopes(x: Values, count: Values, y: Values) -> tuple[float, float]:
    """Least-squares slopes over pixels and images, both at least 0; the latter is 0 where probes cannot tell it."""
    if not np.ptp(x):
        return float((y / x).max()), 0.0
    columns = np.stack([np.ones_like(x), x, count], axis=1)
    scale = np.linalg.norm(columns, axis=0)
    if np.linalg.matrix_rank(columns / scale) == 3:
        _, per_pixel, per_image = np.linalg.lstsq(columns / scale, y, rcond=None)[0] / scale
        if per_image > 0:
            return float(per_pixel), float(per_image)
    centered = x - x.mean()
    return float((centered * (y - y.mean())).sum() / (centered**2).sum()), 0.0


def _last_slope(x: Values, y: Values) -> float:
    """The slope to the highest value at the largest x from that at the largest x of at most half; 0 where there is
    none.

    Between two values that lie close together, noise could give any slope.
    """
    last = x.max()
    if not (x <= last / 2).any():
        return 0.0
    before = x[x <= last / 2].max()
    return float((y[x == last].max() - y[x == before].max()) / (last - before))


def _measured(pixels: npt.ArrayLike, values: npt.ArrayLike) -> tuple[Values, Values]:
    x, y = np.asarray(pixels, dtype=np.float64), np.asarray(values, dtype=np.float64)
    assert x.ndim == 1, "pixel counts are (n,)"
    assert x.shape == y.shape, "one measured value for each pixel count"
    if not len(x) or not (np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)).all():
        raise ConfigError(f"A model needs measurements above 0, but got {y.tolist()} at {x.tolist()} pixels.")
    return x, y


def _require_finite(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name} must be finite and at least 0, but is {value}.")
