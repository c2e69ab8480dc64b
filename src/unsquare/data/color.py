"""Converts pixels of any kind to RGB as a person would see them: 8 bits, sRGB, transparency over white.

Works strip by strip into one RGB array, so that no second picture of the file's size is held.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, TiffImagePlugin

from unsquare.data.pixels import Pixels

_STRIP_PIXELS = 1 << 20
_OPAQUE = {
    **dict.fromkeys(("LA", "La"), "L"),
    **dict.fromkeys(("PA", "RGBA", "RGBa"), "RGB"),
    **{name + "A": name for name in ("CMYK", "LAB", "YCbCr")},
}
"""Pixel modes with opacity, and the same modes without."""
_COLORS = {"1": "L", "P": "RGB", "YCbCr": "RGB", "HSV": "RGB", "RGBX": "RGB"}
"""Modes that are converted to another before a profile is applied."""
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_EXACT = int(ImageCms.Flags.NOOPTIMIZE)

Channels = npt.NDArray[Any]
"""(H, W, C) uint8 or uint16."""


class ValueRange(NamedTuple):
    """The values shown as black and as white."""

    low: float
    high: float


def to_rgb(image: Image.Image, icc: bytes = b"") -> Pixels:
    """The pixels of a loaded picture as sRGB, (H, W, 3) uint8.

    Gray of more than 8 bits is scaled by the range that the format declares. Integers of 32 bits and floats, for which
    formats declare none, are scaled by the smallest of the usual ranges that holds them (see `value_range`).

    Args:
        image: in any mode of Pillow.
        icc: its color profile; damaged profiles, and profiles for another color space than the pixels', are ignored, as
            viewers do.
    """
    if image.mode.startswith(("I", "F")):
        return from_channels(_gray(image), "L", icc)
    mode = image.mode
    if "transparency" in image.info and mode not in _OPAQUE:
        mode = "LA" if mode in ("1", "L") else "RGBA"
    out = np.empty((image.height, image.width, 3), np.uint8)
    for rows in _strips(image.height, image.width):
        strip = image.crop((0, rows.start, image.width, rows.stop))
        if mode in _OPAQUE:
            rgba = strip.convert("RGBA" if _OPAQUE[mode] == "RGB" else "LA")
            out[rows] = _over_white(np.asarray(rgba), "RGBA" if rgba.mode == "RGBA" else "LA", icc)
        else:
            out[rows] = _opaque_to_rgb(strip if mode == strip.mode else strip.convert(mode), icc)
    return out


def from_channels(channels: Channels, mode: str, icc: bytes = b"", *, premultiplied: bool = False) -> Pixels:
    """The same for a picture given as channels, (H, W, C) of 8 or 16 bits, of which opacity, if any, is the last.

    Args:
        channels: the samples, black at 0 and white at the largest.
        mode: the color mode, followed by A where there is opacity: L, RGB, CMYK, LAB, YCbCr, LA, RGBA, ...
        icc: as in `to_rgb`.
        premultiplied: colors have been multiplied by their opacity.
    """
    if mode == "RGB" and channels.dtype == np.uint8:
        return to_srgb(channels, icc)
    out = np.empty((*channels.shape[:2], 3), np.uint8)
    for rows in _strips(*channels.shape[:2]):
        strip = channels[rows]
        if mode in _OPAQUE:
            out[rows] = _over_white(_divided(strip) if premultiplied else strip, mode, icc)
        else:
            out[rows] = _channels_to_rgb(strip, mode, icc)
    return out


def needs_depth(icc: bytes, mode: str) -> bool:
    """Whether `from_channels` needs 16 bits, since a profile's curve may spread few dark levels over many."""
    color = _OPAQUE.get(mode, mode)
    return bool(icc) and color in ("L", "RGB") and _transform(icc, color) is not None


def to_srgb(pixels: Pixels, icc: bytes, mode: str = "RGB") -> Pixels:
    """Convert RGB pixels in place from the colors of a profile to sRGB; returns them.

    Args:
        pixels: (H, W, 3).
        icc: the profile.
        mode: L where the file is gray, and all three channels are the same.
    """
    transform = _transform(icc, mode) if icc else None
    if transform is None:
        return pixels
    for rows in _strips(*pixels.shape[:2]):
        strip = pixels[rows]
        strip[:] = np.asarray(transform.apply(_image(strip if mode == "RGB" else strip[..., :1], mode)))
    return pixels


def value_range(least: float, most: float, *, is_float: bool) -> ValueRange:
    """The range in which samples are shown whose type declares none, from their least and largest value.

    This is the smallest of the usual ranges that holds them: [0, 1] for floats, [0, 255], [0, 65535]; if none does, it
    is from the least to the largest value.
    """
    if least > most:
        return ValueRange(0, 1)
    for limit in (1.0, 255.0, 65535.0):
        if least >= 0 and most <= limit and (limit > 1 or is_float):
            return ValueRange(0, limit)
    return ValueRange(least, max(most, least + 1e-6))


def levels_of(samples: npt.NDArray[Any], shown: ValueRange, dtype: npt.DTypeLike = np.uint8) -> Channels:
    """The samples as integers, 0 at the low end of the range and the largest of their type at the high end.

    Integers from zero to a power of two keep their upper eight bits; others are rounded.
    """
    top = np.iinfo(dtype).max
    if shown == (0, top) and samples.dtype == dtype:
        return samples
    bits = math.log2(shown.high + 1)
    if top == 255 and shown.low == 0 and bits > 8 and bits.is_integer() and samples.dtype.kind in "ui":
        return np.minimum(samples >> (int(bits) - 8), 255).astype(np.uint8)
    out = np.empty(samples.shape, dtype)
    for rows in _strips(samples.shape[0], math.prod(samples.shape[1:])):
        wide: npt.NDArray[Any] = samples[rows].astype(np.float64 if samples.dtype.itemsize > 2 else np.float32)
        scaled = (wide - shown.low) * (top / (shown.high - shown.low))
        out[rows] = np.rint(np.clip(np.nan_to_num(scaled, nan=0.0, posinf=top, neginf=0.0), 0, top))
    return out


def _strips(height: int, width: int) -> list[slice]:
    rows = max(1, _STRIP_PIXELS // max(1, width))
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def _image(channels: npt.NDArray[np.uint8], mode: str) -> Image.Image:
    """A strip (h, w, c) as a Pillow image."""
    height, width = channels.shape[:2]
    return Image.frombytes(mode, (width, height), np.ascontiguousarray(channels).tobytes())


def _channels_to_rgb(channels: Channels, mode: str, icc: bytes) -> npt.NDArray[np.uint8]:
    if channels.dtype == np.uint8:
        return _opaque_to_rgb(_image(channels, mode), icc)
    space = {"L": "gray", "RGB": "rgb"}[mode]
    samples = np.ascontiguousarray(channels[..., 0] if mode == "L" else channels)
    return imagecodecs.cms_transform(
        samples, icc, _SRGB, colorspace=space, outcolorspace="rgb", outdtype=np.uint8, flags=_EXACT
    )


def _opaque_to_rgb(strip: Image.Image, icc: bytes) -> npt.NDArray[np.uint8]:
    strip = strip.convert(_COLORS.get(strip.mode, strip.mode))
    transform = (_transform(icc, strip.mode) if icc else None) or _transform(b"", strip.mode)
    return np.asarray(strip.convert("RGB") if transform is None else transform.apply(strip))


def _over_white(channels: Channels, mode: str, icc: bytes) -> npt.NDArray[np.uint8]:
    color = _channels_to_rgb(channels[..., :-1], _OPAQUE[mode], icc)
    alpha = channels[..., -1:] if channels.dtype == np.uint8 else (channels[..., -1:] >> 8).astype(np.uint8)
    white = Image.new("RGB", (channels.shape[1], channels.shape[0]), "white")
    white.paste(Image.fromarray(color), mask=_image(alpha, "L"))
    return np.asarray(white)


def _divided(channels: Channels) -> Channels:
    """Colors divided by the opacity that they were multiplied by."""
    top = np.iinfo(channels.dtype).max
    alpha = np.maximum(channels[..., -1:], 1).astype(np.float32)
    colors = np.rint(np.minimum(channels[..., :-1] * (top / alpha), top)).astype(channels.dtype)
    return np.concatenate([colors, channels[..., -1:]], axis=-1)


def _gray(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Gray of more than 8 bits as (H, W, 1) bytes."""
    values = np.asarray(image)[..., None]
    if image.mode.startswith("I;16"):
        return levels_of(values, ValueRange(0, (1 << _declared_bits(image)) - 1))
    if image.format == "PPM":
        return levels_of(values, ValueRange(0, 65535 if image.mode == "I" else 1))
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (np.inf, -np.inf)
    return levels_of(values, value_range(least, most, is_float=image.mode == "F"))


def _declared_bits(image: Image.Image) -> int:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
        return int(bits) if 8 < bits <= 16 else 16
    return 16


class _Transform:
    """A conversion from one profile to sRGB."""

    def __init__(self, apply: Callable[[Image.Image], Any]) -> None:
        self.apply = apply


@lru_cache(maxsize=16)
def _transform(icc: bytes, mode: str) -> _Transform | None:
    """The conversion to sRGB from this profile for pixels of this mode; None where none is possible or needed.

    Cached, because pictures of one camera share one profile, and building the conversion takes milliseconds. Whether a
    profile changes colors is measured, not told from its name.
    """
    try:
        if icc:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            if _SPACES.get(profile.profile.xcolor_space) != mode:
                return None
        elif mode == "LAB":
            profile = ImageCms.createProfile("LAB")  # type: ignore[assignment]
        else:
            return None
        # Without lookup tables, which are up to 10 levels off where gray is linear; colors take another path.
        flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
        built = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", flags=flags)
        transform = _Transform(lambda image: ImageCms.applyTransform(image, built))
        return None if mode in ("L", "RGB") and _changes_nothing(transform, mode) else transform
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _changes_nothing(transform: _Transform, mode: str) -> bool:
    """Whether gray levels, and colors spread over all of RGB, are unchanged to within a level."""
    levels = np.arange(256, dtype=np.uint8)
    colors = np.repeat(levels[:, None], 3, axis=1)
    if mode == "RGB":
        steps = np.arange(0, 256, 15, dtype=np.uint8)
        colors = np.concatenate([colors, np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)])
    given = _image(colors[None] if mode == "RGB" else colors[None, :, :1], mode)
    return bool(np.abs(np.asarray(transform.apply(given))[0].astype(int) - colors).max() <= 1)
