"""Pixels of any kind to the RGB that a person would see: 8 bits, sRGB, transparency over white.

Works strip by strip into one RGB array, so that a conversion never holds a second picture of the file's size.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

from unsquare.data.pixels import Pixels

_STRIP_PIXELS = 1 << 20
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_OWN_SPACE = ("CMYK", "LAB")
"""Modes that a profile converts from directly; every other becomes RGB or grey first."""
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}


def to_rgb(image: Image.Image, icc: bytes = b"") -> Pixels:
    """The pixels of a loaded picture as sRGB, (H, W, 3) uint8.

    16-bit grey is scaled by the depth that the file declares (12 bits in a TIFF that says so); whole numbers
    of 32 bits and floats, which declare no range, by the smallest of the usual ranges that holds them (see
    `_levels`).

    Args:
        image: in any mode of Pillow.
        icc: its colour profile; damaged profiles and those of another colour space are ignored, as viewers
            do.
    """
    if image.mode.startswith(("I", "F")):
        image = _levels(image)
    out = np.empty((image.height, image.width, 3), np.uint8)
    rows = _strip_rows(image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        out[top:bottom] = np.asarray(_strip_to_rgb(image.crop((0, top, image.width, bottom)), icc))
    return out if image.mode in _OWN_SPACE else to_srgb(out, icc)


def to_srgb(pixels: Pixels, icc: bytes) -> Pixels:
    """Convert RGB pixels in place from the colours of a profile to sRGB; returns them."""
    mode = "RGB"
    transform = _transform(icc, mode) if icc else None
    if icc and transform is None:
        mode = "L"
        transform = _transform(icc, mode)
    if transform is None:
        return pixels
    rows = _strip_rows(pixels.shape[1])
    for top in range(0, len(pixels), rows):
        strip = pixels[top : top + rows]
        image = Image.fromarray(np.ascontiguousarray(strip if mode == "RGB" else strip[..., 0]))
        strip[:] = np.asarray(transform.apply(image))
    return pixels


def _strip_rows(width: int) -> int:
    return max(1, _STRIP_PIXELS // width)


def _strip_to_rgb(strip: Image.Image, icc: bytes) -> Image.Image:
    if strip.mode in _OWN_SPACE:
        transform = _transform(icc, strip.mode) or _transform(b"", strip.mode)
        return strip.convert("RGB") if transform is None else transform.apply(strip)
    if strip.mode in _WITH_ALPHA or "transparency" in strip.info:
        rgba = strip.convert("RGBA")
        white = Image.new("RGB", strip.size, "white")
        white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
        return white
    return strip.convert("RGB")


def _levels(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as 8 bits.

    Declared depth for 16-bit modes. For "I" (32-bit whole numbers) and "F" (floats): [0, 1] for floats, else
    [0, 255], else [0, 65535], whichever first holds all values; values outside all of them stretch from
    least to most.
    """
    if image.mode.startswith("I;16"):
        low, high = 0.0, float(256 << (_declared_bits(image) - 8))
    else:
        low, high = _value_range(image)
    out = np.empty((image.height, image.width), np.uint8)
    rows = _strip_rows(image.width)
    for top in range(0, image.height, rows):
        strip = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))), np.float32)
        scaled = np.nan_to_num((strip - low) * (256 / (high - low)), nan=0.0, posinf=255.0, neginf=0.0)
        out[top : top + rows] = np.clip(scaled, 0, 255)
    return Image.fromarray(out)


def _declared_bits(image: Image.Image) -> int:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
        return int(bits) if 8 < bits <= 16 else 16
    return 16


def _value_range(image: Image.Image) -> tuple[float, float]:
    """Values shown as black and (just above) as white."""
    values = np.asarray(image)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    for limit in (1.0, 255.0, 65535.0):
        if low >= 0 and high <= limit and (limit > 1 or image.mode == "F"):
            return 0.0, limit * 256 / 255 if limit == 1 else limit + 1
    return low, low + max(high - low, 1e-6) * 256 / 255


class _Transform:
    """A conversion from one profile to sRGB."""

    def __init__(self, apply: Callable[[Image.Image], Any]) -> None:
        self.apply = apply


@lru_cache(maxsize=16)
def _transform(icc: bytes, mode: str) -> _Transform | None:
    """The conversion to sRGB from this profile for pixels of this mode; None where there is none.

    Kept, because the pictures of one camera share one profile, and building the conversion costs
    milliseconds.
    """
    try:
        if icc:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            space = _SPACES.get(profile.profile.xcolor_space)
            description = profile.profile.profile_description or ""
            if space != mode or "srgb" in description.lower():
                return None
        elif mode == "LAB":
            profile = ImageCms.createProfile("LAB")  # type: ignore[assignment]
        else:
            return None
        built = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return _Transform(lambda image: ImageCms.applyTransform(image, built))
