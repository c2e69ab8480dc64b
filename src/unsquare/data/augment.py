"""How training changes a picture: a random crop, flips, quarter turns, color; the resulting shape is known beforehand.

The plan needs the shapes, so it decides crop and turn; the crop's position, flips and colors are drawn here, from a
generator of the image's own, so that they depend on neither rank nor worker nor order. Nothing is resized: flips and
turns move pixels, and colors are changed in whole numbers, strip by strip, without a float copy. What follows, on a
picture of this shape, is in `appearance`, and draws from `streams`, so that no setting changes the draws of another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

import numpy as np

from unsquare.data.pixels import Pixels, contiguous
from unsquare.errors import ConfigError
from unsquare.named import name_of
from unsquare.settings import Range, check_settings, received
from unsquare.shapes import Shape

_STREAM = 0x70_69_78
"""Separates these draws from others that are seeded by the same numbers."""
_STRIP_PIXELS = 1 << 16
"""Pixels of a strip for color arithmetic, small enough for the processor's cache."""
_GRAY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luminance (ITU-R BT.601)."""
_ONE = 1 << 12
"""The factor 1 in the fixed-point arithmetic of colors."""
MOST_MAGNITUDE = 30
"""The last of the 31 magnitudes that RandAugment and TrivialAugment have in torchvision."""

AutoAugment = Literal["auto", "none", "randaugment", "trivialaugment"]
PictureTransform = Callable[[Pixels, np.random.Generator], Pixels]
"""A function of the user's own: pixels and the picture's generator in, pixels of the same shape out."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training may change a picture.

    Example:
        >>> unsquare.AugmentConfig(turns=True, color_jitter=0.2).flip_horizontal
        True
    """

    oriented: bool = False
    """Keep pictures upright and unmirrored, as text needs it. No flip and no rotation is drawn, whatever else is on."""
    flip_horizontal: bool = True
    """Mirror left and right with probability 0.5. Turn it off where the side carries meaning."""
    flip_vertical: bool = False
    """Mirror top and bottom with probability 0.5. For pictures that have no up, such as micrographs."""
    turns: bool = False
    """Rotate by a random number of quarter turns. The plan draws it; for pictures that have no up."""
    color_jitter: Annotated[float, Range(0, below=1)] = 0.0
    """Strength of color jitter, in [0, 1). Brightness, contrast and saturation are each scaled by a factor drawn from 1
    plus or minus this."""
    auto_augment: AutoAugment = "auto"
    """Random operations on each picture: auto, none, randaugment or trivialaugment. RandAugment draws two of 14
    operations, all of one strength; TrivialAugment draws one, of any strength. Both are torchvision's, with its ranges.
    auto is the recipe's, and none without one."""
    auto_augment_magnitude: Annotated[int, Range(0, MOST_MAGNITUDE)] = 9
    """Strength of RandAugment's operations, from 0 to 30. 9 is torchvision's default; its scale ends at 30."""
    blur: Annotated[float, Range(0, 1)] = 0.0
    """Probability of a Gaussian blur. Its standard deviation is drawn from 0.1 to 2 pixels of the planned picture."""
    erasing: Annotated[float, Range(0, 1)] = 0.0
    """Probability that a rectangle is erased. It has 2 to 33 % of the picture and becomes the mean color."""
    mixup: Annotated[float, Range(0, 100)] = 0.0
    """Blend each picture with another of its micro-batch; this is alpha, 0 is off. The share that a picture keeps is
    drawn from the Beta distribution of alpha and alpha (0.2 and 0.8 are common), and the label is shared alike."""
    cutmix: Annotated[float, Range(0, 100)] = 0.0
    """Paste a part of another picture of the micro-batch into each; this is alpha, 0 is off. Where mixup is on as well,
    each picture gets one of the two."""
    transform: PictureTransform | str | None = None
    """Function of your own, as package.module:function, that changes each picture last. It is given the pixels,
    (height, width, 3) of uint8, and the picture's numpy.random.Generator, from which it must draw, and returns pixels
    of the same shape. Several threads call it at a time. It is looked up from the working folder, too; in Python it may
    be the function itself, whose name is recorded."""

    def __post_init__(self) -> None:
        check_settings(self)
        turned = [name for name in ("flip_vertical", "turns") if getattr(self, name)]
        if self.oriented and turned:
            raise ConfigError(f"Oriented pictures are never turned, but {turned[0]} is on as well; leave one out.")
        if isinstance(self.transform, str) and not all(self.transform.partition(":")):
            raise ConfigError(
                "transform must be a function, or the name of one as package.module:function, but is "
                f"{received(self.transform)}."
            )

    @property
    def mirrors(self) -> bool:
        """Whether left and right may be exchanged."""
        return self.flip_horizontal and not self.oriented

    @property
    def mixes(self) -> bool:
        """Whether pictures are mixed with others."""
        return self.mixup > 0 or self.cutmix > 0

    def by_name(self) -> AugmentConfig:
        """The same with the transform's name in place of the function, as it is recorded."""
        return replace(self, transform=name_of(self.transform)) if callable(self.transform) else self


class DrawStreams(NamedTuple):
    """Generators of one image in one epoch, each for another change, so that no setting moves the draws of another."""

    auto_augment: np.random.Generator
    blur: np.random.Generator
    erasing: np.random.Generator
    transform: np.random.Generator
    mixing: np.random.Generator


def image_rng(seed: int, epoch: int, key_position: int) -> np.random.Generator:
    """The generator of one image in one epoch, the same on every rank and worker.

    Args:
        seed: the run's seed, at least 0.
        epoch: the epoch, from 0.
        key_position: the image's row in the index.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((_STREAM, seed, epoch, key_position))))


def streams(rng: np.random.Generator) -> DrawStreams:
    """The generators of what follows crop and flips; those of a fresh `image_rng`, whatever was drawn from it."""
    return DrawStreams(*rng.spawn(len(DrawStreams._fields)))  # further fields at the end leave these as they are


def augment(image: Pixels, *, crop: Shape, turn: int, rng: np.random.Generator, config: AugmentConfig) -> Pixels:
    """A changed copy of a picture (or the picture itself where nothing changes), contiguous.

    Args:
        image: (H, W, 3) uint8, at least as large as the crop.
        crop: the shape to cut out, before the turn.
        turn: quarter turns counter-clockwise, 0 to 3.
        rng: `image_rng` of this image.
        config: which flips and how much color jitter.

    Returns:
        (h, w, 3) uint8: the crop's shape, its sides swapped by an odd turn.
    """
    height, width = image.shape[:2]
    assert max(crop.height - height, crop.width - width) <= 0, "the crop must lie inside the picture"
    # All draws are made whatever the settings, so that no setting changes the draws of another.
    top = int(rng.integers(height - crop.height + 1))
    left = int(rng.integers(width - crop.width + 1))
    mirror, upend = rng.random(2) < 0.5
    factors = 1 + config.color_jitter * rng.uniform(-1, 1, size=3)
    out = image[top : top + crop.height, left : left + crop.width]
    if config.mirrors and mirror:
        out = out[:, ::-1]
    if config.flip_vertical and upend:
        out = out[::-1]
    out = np.rot90(out, turn) if turn else out
    if config.color_jitter:
        return _jitter(out, *factors)
    return contiguous(out)


def _jitter(image: Pixels, brightness: float, contrast: float, saturation: float) -> Pixels:
    """Colors scaled: brightness first, contrast about the mean luminance, saturation about each pixel's own.

    All three are linear, so they are one matrix: out = direct x channel + shared x luminance + offset.
    """
    mean = float(_sample(image).mean(axis=(0, 1)) @ _GRAY) * brightness
    direct = round(_ONE * brightness * contrast * saturation)
    shared = [round(_ONE * brightness * contrast * (1 - saturation) * weight) for weight in _GRAY]
    offset = round(_ONE * ((1 - contrast) * mean + 0.5))
    out = np.empty(image.shape, np.uint8)
    rows = max(1, _STRIP_PIXELS // image.shape[1])
    for top in range(0, len(image), rows):
        strip = image[top : top + rows].astype(np.int32)
        luminance = strip[..., 0] * shared[0] + strip[..., 1] * shared[1] + strip[..., 2] * shared[2] + offset
        strip *= direct
        strip += luminance[..., None]
        strip >>= _ONE.bit_length() - 1
        np.clip(strip, 0, 255, out=strip)
        out[top : top + rows] = strip
    return out


def _sample(image: Pixels) -> Pixels:
    """About 256 x 256 pixels, evenly spread, which are enough for a mean."""
    return image[:: max(1, image.shape[0] // 256), :: max(1, image.shape[1] // 256)]
