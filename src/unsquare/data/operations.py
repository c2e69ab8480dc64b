"""The operations of RandAugment and TrivialAugment, blur and erasing, in strips: none changes a picture's shape.

torchvision's functions make floats of the whole picture, and a grid for what moves pixels: 32 to 144 bytes per pixel
were measured, up to two gigabytes for 16 MP in each decoding thread, which the budget does not have; and they start
threads of their own below ours. Here an operation takes the 3 of its result. What changes each value by itself is
torchvision's function of the 256 values, looked up; what moves pixels, or looks at other channels and neighbors, is
NumPy. The tests compare each with torchvision's on whole pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2 import functional as F

from unsquare.data.pixels import Pixels

FILL = (124, 116, 104)
"""What comes into a picture from outside, and what is erased: the mean of ImageNet, which the usual normalization makes
zero, as padding is."""
_STRIP_PIXELS = 1 << 15
"""Pixels of a strip, small enough for the processor's cache."""
_TILE = 256
"""Side of a tile that is blurred at once."""
_TABLE_LENGTH = 256


def apply(name: str, image: Pixels, magnitude: float) -> Pixels:
    """A picture (H, W, 3) after an operation of torchvision's, by its name there; the picture itself for Identity.

    The magnitude has torchvision's meaning: a factor minus 1, pixels, degrees, bits, or a part of 255.
    """
    return _OPERATIONS[name](image, magnitude) if name in _OPERATIONS else image


def erased(image: Pixels, rows: slice, columns: slice) -> Pixels:
    """A picture whose window has the mean color."""
    out = image.copy(order="C")
    out[rows, columns] = FILL
    return out


def blurred(image: Pixels, sigma: float) -> Pixels:
    """A picture after a Gaussian blur of `sigma` pixels, cut off at three of them, reflected at the edges."""
    radius = math.ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    rows, columns = (np.pad(np.arange(side), radius, mode="reflect") for side in image.shape[:2])
    out = np.empty_like(image, order="C")
    for top in range(0, image.shape[0], _TILE):
        for left in range(0, image.shape[1], _TILE):
            around = np.ix_(rows[top : top + _TILE + 2 * radius], columns[left : left + _TILE + 2 * radius])
            tile = _smoothed(_smoothed(image[around].astype(np.float32), weights).swapaxes(0, 1), weights)
            out[top : top + _TILE, left : left + _TILE] = np.rint(tile.swapaxes(0, 1))
    return out


def _smoothed(tile: npt.NDArray[np.float32], weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The weighted sums along the first axis, which becomes shorter."""
    length = len(tile) - len(weights) + 1
    out = weights[0] * tile[:length]
    for i in range(1, len(weights)):
        out += weights[i] * tile[i : i + length]
    return out


def _strips(image: Pixels) -> Iterator[slice]:
    rows = max(1, _STRIP_PIXELS // image.shape[1])
    for top in range(0, len(image), rows):
        yield slice(top, min(top + rows, len(image)))


def _values() -> torch.Tensor:
    """A picture (3, 1, 256) that has each value once in each channel."""
    return torch.arange(_TABLE_LENGTH, dtype=torch.uint8).expand(3, 1, _TABLE_LENGTH).clone()


def _looked_up(image: Pixels, table: torch.Tensor) -> Pixels:
    """A picture with each value of a channel replaced by what the table (3, 1, 256) has for it."""
    out = np.empty_like(image, order="C")
    channels = table.numpy()[:, 0]
    for strip in _strips(image):
        for channel, values in enumerate(channels):
            out[strip, :, channel] = values[image[strip, :, channel]]
    return out


def _by_value(function: Callable[[torch.Tensor, float], torch.Tensor]) -> Callable[[Pixels, float], Pixels]:
    """An operation from a function of torchvision's that changes each value by itself."""
    return lambda image, magnitude: _looked_up(image, function(_values(), magnitude))


def _luminance(strip: Pixels) -> npt.NDArray[np.float32]:
    """Whole numbers, with torchvision's weights of red, green and blue."""
    red, green, blue = (strip[..., channel].astype(np.float32) for channel in range(3))
    return np.floor(red * np.float32(0.2989) + green * np.float32(0.587) + blue * np.float32(0.114))


def _contrast(image: Pixels, magnitude: float) -> Pixels:
    """Blended with the mean of its luminance, as by `adjust_contrast`."""
    total = sum(float(_luminance(image[strip]).sum(dtype=np.float64)) for strip in _strips(image))
    mean = torch.tensor(total / (image.shape[0] * image.shape[1]), dtype=torch.float32)
    factor = 1.0 + magnitude
    table = _values().mul(factor).add_(mean, alpha=1.0 - factor).clamp_(0, 255)
    return _looked_up(image, table.to(torch.uint8))


def _color(image: Pixels, magnitude: float) -> Pixels:
    """Each pixel blended with its luminance, as by `adjust_saturation`."""
    out = np.empty_like(image, order="C")
    for strip in _strips(image):
        colors = image[strip] * np.float32(1 + magnitude)
        colors += (_luminance(image[strip]) * np.float32(-magnitude))[..., None]
        out[strip] = np.clip(colors, 0, 255, out=colors)
    return out


def _sharpness(image: Pixels, magnitude: float) -> Pixels:
    """Blended with its 3 x 3 smoothing, whose weights are 1, and 5 in the middle; edges stay, as in torchvision."""
    out = image.copy(order="C")
    if min(image.shape[:2]) <= 2:
        return out
    inner = out[1:-1, 1:-1]
    for strip in _strips(inner):
        around = image[strip.start : strip.stop + 2].astype(np.int32)
        three = around[:-2] + around[1:-1] + around[2:]
        own = around[1:-1, 1:-1].astype(np.float32)
        sums = three[:, :-2] + three[:, 1:-1] + three[:, 2:] + 4 * around[1:-1, 1:-1]
        smooth = np.rint(sums.astype(np.float32) / np.float32(13))
        inner[strip] = np.clip(own - np.float32(magnitude) * (smooth - own), 0, 255)
    return out


def _histograms(image: Pixels) -> npt.NDArray[np.int64]:
    """How often each channel has each value, (3, 256)."""
    found = np.zeros((3, _TABLE_LENGTH), np.int64)
    for strip in _strips(image):
        for channel in range(3):
            found[channel] += np.bincount(image[strip, :, channel].ravel(), minlength=_TABLE_LENGTH)
    return found


def _autocontrast(image: Pixels, magnitude: float) -> Pixels:
    """Each channel stretched to 0 and 255: torchvision's function of the values between its lowest and highest."""
    held = [np.flatnonzero(counts)[[0, -1]] for counts in _histograms(image)]
    values = np.stack([np.clip(np.arange(_TABLE_LENGTH), low, high) for low, high in held])
    return _looked_up(image, F.autocontrast(torch.from_numpy(values.astype(np.uint8))[:, None]))


def _equalize(image: Pixels, magnitude: float) -> Pixels:
    """Each channel with the table of `equalize`, which is Pillow's; its function needs eight bytes for each value."""
    table = np.tile(np.arange(_TABLE_LENGTH), (3, 1))
    for channel, counts in enumerate(_histograms(image)):
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        if step:
            before = np.concatenate([[0], counts.cumsum()[:-1]])
            table[channel] = np.minimum((before + step // 2) // step, 255)
    return _looked_up(image, torch.from_numpy(table.astype(np.uint8))[:, None])


def _sheared_x(image: Pixels, magnitude: float) -> Pixels:
    out = _filled(image)
    _shear(out, image, magnitude)
    return out


def _sheared_y(image: Pixels, magnitude: float) -> Pixels:
    out = _filled(image)
    _shear(out.swapaxes(0, 1), image.swapaxes(0, 1), magnitude)
    return out


def _shear(out: Pixels, image: Pixels, magnitude: float) -> None:
    """Write a picture, each line moved toward its start by `magnitude` times its distance from the first."""
    for line, moved in enumerate(np.rint(magnitude * (np.arange(len(image)) + 0.5)).astype(int)):
        _move(out[line], image[line], moved)


def _translated_x(image: Pixels, magnitude: float) -> Pixels:
    out = _filled(image)
    _move(out.swapaxes(0, 1), image.swapaxes(0, 1), -int(magnitude))
    return out


def _translated_y(image: Pixels, magnitude: float) -> Pixels:
    out = _filled(image)
    _move(out, image, -int(magnitude))
    return out


def _filled(image: Pixels) -> Pixels:
    out = np.empty_like(image, order="C")
    out[:] = FILL
    return out


def _move(out: npt.NDArray[Any], line: npt.NDArray[Any], moved: int) -> None:
    """Write a line, moved toward its start by so many places; what is moved out is lost."""
    length = len(line)
    if abs(moved) < length:
        out[max(0, -moved) : length - max(0, moved)] = line[max(0, moved) : length - max(0, -moved)]


def _rotated(image: Pixels, magnitude: float) -> Pixels:
    """Turned counter-clockwise about its middle by so many degrees, each pixel from the nearest."""
    height, width = image.shape[:2]
    pixels = np.ascontiguousarray(image).view("V3")[..., 0]
    cosine, sine = math.cos(math.radians(magnitude)), math.sin(math.radians(magnitude))
    across = np.arange(width) - (width - 1) / 2
    out = _filled(image)
    whole = out.view("V3")[..., 0]
    for strip in _strips(image):
        down = np.arange(strip.start, strip.stop)[:, None] - (height - 1) / 2
        rows = np.rint(sine * across + cosine * down + (height - 1) / 2).astype(np.int32)
        columns = np.rint(cosine * across - sine * down + (width - 1) / 2).astype(np.int32)
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        whole[strip][inside] = pixels[rows[inside], columns[inside]]
    return out


_OPERATIONS: dict[str, Callable[[Pixels, float], Pixels]] = {
    "ShearX": _sheared_x,
    "ShearY": _sheared_y,
    "TranslateX": _translated_x,
    "TranslateY": _translated_y,
    "Rotate": _rotated,
    "Brightness": _by_value(lambda values, magnitude: F.adjust_brightness(values, 1.0 + magnitude)),
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _by_value(lambda values, magnitude: F.posterize(values, int(magnitude))),
    "Solarize": _by_value(lambda values, magnitude: F.solarize(values, 255.0 * magnitude)),
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
}
