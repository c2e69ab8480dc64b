"""Progressive resolution: early epochs are planned at fewer pixels, the last ones at full size.

An epoch at a quarter of the pixels takes a quarter of the time, and most of what a network learns at first does not
depend on the detail. Shapes are the plan's, so such an epoch is planned like any other, of pictures whose largest are
shrunk with their aspect kept. Weights trained on small pictures see larger objects in large ones (Touvron et al.,
Fixing the train-test resolution discrepancy, 2019), and lose a fifth of their accuracy there (docs/experiments.md). So
each epoch is evaluated at its own size, and the best weights are used at the size at which they were best.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

from unsquare.errors import ConfigError
from unsquare.settings import PixelCount, check_settings, checked
from unsquare.shapes import Geometry

_STAGE = re.compile(r"\s*([^:]+?)\s*:\s*([0-9]{0,9}\.?[0-9]{1,9})\s*")
_FULL = "full"


Stage = tuple[int | None, float]
"""The most pixels of pictures in a part of a run, None for full size, and the part's share of the epochs."""


@dataclass(frozen=True, kw_only=True)
class ResolutionConfig:
    """The size of pictures over the course of training.

    Example:
        >>> unsquare.ResolutionConfig(progressive="50kP:3,full:1").stages
        ((50000, 3.0), (None, 1.0))
    """

    progressive: str = "auto"
    """Sizes over the epochs: auto, off, or sizes and shares of the epochs such as 50kP:3,200kP:1,full:1, of which the
    last is full. Larger pictures are shrunk to that size, with their aspect kept; `full` is the size they have."""
    grow: Literal["auto", "while-better", "always"] = "auto"
    """Whether pictures grow through all those sizes: always, or while-better, which ends at the size that is best where
    smaller pictures do better on val, or auto, which is while-better but for sizes of one's own, random scales and
    folds."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.progressive != "auto":
            self.stages  # noqa: B018 - raises where the text is no list of stages

    @property
    def chooses(self) -> bool:
        """Whether the size at which weights are used is chosen after training."""
        return self.progressive != "auto" and len(self.stages) > 1

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in order.

        Raises:
            ConfigError: they are not given as stages, or do not end at full size.
        """
        if self.progressive == "off":
            return ((None, 1.0),)
        found = tuple(_stage(part) for part in self.progressive.split(","))
        if found[-1][0] is not None:
            raise ConfigError(f"The last stage of progressive must be full, but got {self.progressive!r}; add full:1.")
        return found

    def max_pixels_of(self, epoch: int, epochs: int) -> int | None:
        """The most pixels of pictures in an epoch, from 0, of a run of `epochs`; None in the last, at full size."""
        stages = self.stages
        total, done = sum(share for _, share in stages), 0.0
        for max_pixels, share in stages[:-1]:
            done += share
            if epoch < min(round(epochs * done / total), epochs - 1):
                return max_pixels
        return None


def size_text(max_pixels: int | None) -> str:
    """The most pixels of pictures in words, such as 104 kP; full size for None."""
    if max_pixels is None:
        return "full size"
    if max_pixels < 10_000:
        return f"{max_pixels:,} pixels"
    return f"{max_pixels / 1e6:.2f} MP" if max_pixels >= 1_000_000 else f"{max_pixels / 1e3:.0f} kP"


UNBOUNDED = 1 << 62
"""More pixels than any picture has."""


def bound_of(geometry: Geometry, max_pixels: int | None = None) -> int:
    """The most pixels that a picture may have, in a stage of so many at most."""
    return min(UNBOUNDED if bound is None else bound for bound in (geometry.max_pixels, max_pixels))


def stage_geometry(geometry: Geometry, max_pixels: int | None, stride: int) -> Geometry:
    """The rule for the sizes of pictures in a stage: larger ones are shrunk, but no side of a crop below the stride."""
    if max_pixels is None or (geometry.max_pixels is not None and geometry.max_pixels <= max_pixels):
        return geometry
    least = ceil(stride / geometry.crop_fraction)
    return replace(geometry, max_pixels=max_pixels, min_side=max(geometry.min_side, least))


def _stage(text: str) -> Stage:
    found = _STAGE.fullmatch(text)
    share = float(found[2]) if found else 0.0
    pixels = 0
    if found is not None and found[1] != _FULL:
        size = int(found[1]) if found[1].isdigit() and len(found[1]) < 20 else found[1]
        try:
            pixels = checked(PixelCount, size, "progressive")
        except ConfigError:
            found = None
    if found is None or share <= 0:
        raise ConfigError(
            f"Each stage of progressive must be a size and a share of the epochs above 0, such as 50kP:3, 2MP:1 or "
            f"full:1, but one is {text!r}; give auto or off, or correct it."
        )
    return None if found[1] == _FULL else max(1, pixels), share
