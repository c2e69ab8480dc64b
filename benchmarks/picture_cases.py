"""A small picture in which every column differs, and how its samples are stored at any depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HEIGHT, WIDTH = 24, 40
X = np.linspace(0, 255, WIDTH).round().astype(np.uint8)[None, :].repeat(HEIGHT, 0)
Y = np.linspace(0, 255, HEIGHT).round().astype(np.uint8)[:, None].repeat(WIDTH, 1)
RGB = np.stack([X, Y, 255 - X], axis=-1)
ALPHA = np.where(np.arange(WIDTH) % 3 == 0, 255, np.where(np.arange(WIDTH) % 3 == 1, 128, 0)).astype(np.uint8)
ALPHA = ALPHA[None, :].repeat(HEIGHT, 0)


@dataclass(frozen=True)
class Case:
    kind: str
    name: str
    data: bytes
    expected: np.ndarray
    """(H, W, 3) uint8."""
    tolerance: int = 2


def gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=-1)


def over_white(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    a = alpha[..., None] / 255
    return np.rint(colors * a + 255 * (1 - a)).astype(np.uint8)


def packed(samples: np.ndarray, bits: int, order: str) -> bytes:
    """Rows of samples (h, n) as TIFF stores them: each row begins at a byte."""
    if bits in (8, 16, 32, 64):
        return samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    shifts = np.arange(bits - 1, -1, -1)
    return np.packbits((samples[..., None] >> shifts & 1).reshape(len(samples), -1), axis=1).tobytes()


def wide(values: np.ndarray, kind: str, bits: int) -> np.ndarray:
    """8-bit values as samples of another depth over its whole range."""
    v = values.astype(np.int64)
    if kind == "f":
        return (v / 255).astype(f"f{bits // 8}")
    top = (1 << bits) - 1
    if kind == "u":
        store = 8 if bits <= 8 else 16 if bits <= 16 else bits
        return ((v * top + 127) // 255).astype(f"u{store // 8}")
    return (v * (top // 255) - (1 << bits - 1)).astype(f"i{bits // 8}")


def levels(bits: int) -> np.ndarray:
    """The 8-bit gray that X becomes when it is stored in fewer bits."""
    if bits >= 8:
        return X
    top = (1 << bits) - 1
    return ((X.astype(np.int64) * top + 127) // 255 * 255 / top).round().astype(np.uint8)
