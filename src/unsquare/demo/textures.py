"""The materials: one function each, from a random generator and a shape to a fine texture.

A texture is a field of zero mean and unit variance whose features are 2 to 6 pixels wide, at a random angle and with
either sign. Materials differ only in how neighboring pixels are related: mean, contrast and scale have the same
distribution for all, so that no coarse measurement tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin

import numpy as np

from unsquare.demo.noise import Field, smooth_noise, standardize
from unsquare.shapes import Shape

_CLIP = 2.5
"""Largest deviation kept, in standard deviations; rarer values would only saturate."""


def make_texture(rng: np.random.Generator, material: str, shape: Shape) -> Field:
    """The texture of a material, (H, W), of zero mean and unit variance."""
    scale = float(np.exp(rng.uniform(np.log(0.85), np.log(1.3))))
    angle = rng.uniform(0, pi)
    sign = rng.choice([-1.0, 1.0])
    field = standardize(_soften(MATERIALS[material](rng, shape, scale, angle)))
    return standardize(np.clip(sign * field, -_CLIP, _CLIP))


def _soften(field: Field) -> Field:
    """Blurred like by a lens, by less than a pixel: without it, edges between pixels would look like stairs."""
    padded = np.pad(field, 1, mode="edge")
    rows = padded[:-2] + np.float32(3) * padded[1:-1] + padded[2:]
    return (rows[:, :-2] + np.float32(3) * rows[:, 1:-1] + rows[:, 2:]) / np.float32(25)


def _turned_grid(rng: np.random.Generator, shape: Shape, angle: float, bend: float) -> tuple[Field, Field]:
    """Pixel coordinates turned by an angle and gently bent, as cloth or grain is, by `bend` pixels."""
    y, x = np.indices(shape, dtype=np.float32)
    u = np.float32(cos(angle)) * x + np.float32(sin(angle)) * y
    v = np.float32(-sin(angle)) * x + np.float32(cos(angle)) * y
    u += np.float32(bend) * smooth_noise(rng, shape, 48)
    v += np.float32(bend) * smooth_noise(rng, shape, 48)
    return u, v


def _weave(rng: np.random.Generator, shape: Shape, scale: float, angle: float) -> Field:
    """Plain weave: threads that go over and under each other, rounded across and sunk at the crossings."""
    thread = 3.4 * scale
    u, v = _turned_grid(rng, shape, angle, 1.5)
    u, v = u / thread, v / thread
    over = (np.floor(u) + np.floor(v)) % 2 == 0
    across = np.where(over, u, v) % 1 - 0.5
    along = np.where(over, v, u) % 1 - 0.5
    relief = (1 - 4 * across**2) * (0.65 + 0.35 * np.cos(2 * np.float32(pi) * along))
    relief += np.float32(rng.uniform(0.1, 0.35)) * over
    return relief + np.float32(0.1) * smooth_noise(rng, shape, 2.0)


def _brushed_metal(rng: np.random.Generator, shape: Shape, scale: float, angle: float) -> Field:
    """Scratches: straight, parallel, of random strength and a dozen or two pixels long."""
    fine = smooth_noise(rng, shape, 1.5 * scale, stretch=11, angle=angle)
    coarse = smooth_noise(rng, shape, 2.6 * scale, stretch=7, angle=angle)
    return fine + np.float32(0.6) * coarse


def _veined_marble(rng: np.random.Generator, shape: Shape, scale: float, angle: float) -> Field:
    """A net of thin veins: where a smooth field passes through zero, at two scales."""
    wide = smooth_noise(rng, shape, 5.2 * scale, stretch=1.6, angle=angle)
    narrow = smooth_noise(rng, shape, 3.6 * scale, stretch=1.3, angle=angle + 0.8)
    veins = np.exp(-((wide / 0.3) ** 2)) + np.float32(0.55) * np.exp(-((narrow / 0.25) ** 2))
    return veins + np.float32(0.08) * smooth_noise(rng, shape, 3.0)


def _wood_rings(rng: np.random.Generator, shape: Shape, scale: float, angle: float) -> Field:
    """Growth rings around a far center: slow rise, sharp fall, of varying width, crossed by short pores."""
    u, v = _turned_grid(rng, shape, angle, 3.0)
    radius = np.float32(rng.uniform(0.8, 3.0) * (shape.height + shape.width))
    distance = np.hypot(u - u.mean() + radius, np.float32(0.8) * (v - v.mean()))
    phase = distance / np.float32(5.4 * scale) + np.float32(0.45) * smooth_noise(rng, shape, 30)
    ring = (phase % 1) ** 2
    pores = smooth_noise(rng, shape, 1.8 * scale, stretch=5, angle=angle + pi / 2)
    return standardize(ring) - np.float32(0.6) * np.maximum(pores - 0.8, 0)


def _terracotta_grain(rng: np.random.Generator, shape: Shape, scale: float, angle: float) -> Field:
    """Fired clay: grains without any direction, and dark pores among them."""
    grain = smooth_noise(rng, shape, 2.0 * scale, angle=angle)
    coarse = smooth_noise(rng, shape, 3.6 * scale, angle=angle + 0.7)
    return grain + np.float32(0.5) * coarse - np.float32(1.2) * np.maximum(coarse - 1.0, 0)


def _hammered_silver(rng: np.random.Generator, shape: Shape, scale: float, angle: float) -> Field:
    """Hammer dents side by side, each a shallow bowl that is light on one side and dark on the other."""
    pitch = 5.8 * scale
    u, v = _turned_grid(rng, shape, angle, 2.0)
    u, v = (u - u.min()) / np.float32(pitch) + 1, (v - v.min()) / np.float32(pitch) + 1
    cell_u, cell_v = u.astype(np.int32), v.astype(np.int32)
    blows = rng.uniform(0.1, 0.9, (2, int(cell_u.max()) + 2, int(cell_v.max()) + 2)).astype(np.float32)
    nearest = np.full(shape, np.inf, dtype=np.float32)
    slope = np.zeros(shape, dtype=np.float32)
    light = rng.uniform(0, 2 * pi)
    for du in (-1, 0, 1):
        for dv in (-1, 0, 1):
            at = (cell_u + du, cell_v + dv)
            to_u, to_v = u - at[0] - blows[0][at], v - at[1] - blows[1][at]
            distance = to_u**2 + to_v**2
            closer = distance < nearest
            nearest = np.where(closer, distance, nearest)
            slope = np.where(closer, np.float32(cos(light)) * to_u + np.float32(sin(light)) * to_v, slope)
    return (slope + np.float32(0.5) * np.sqrt(nearest)).astype(np.float32)


MATERIALS: dict[str, Callable[[np.random.Generator, Shape, float, float], Field]] = {
    "brushed_metal": _brushed_metal,
    "hammered_silver": _hammered_silver,
    "terracotta_grain": _terracotta_grain,
    "veined_marble": _veined_marble,
    "weave": _weave,
    "wood_rings": _wood_rings,
}
"""Every material by name, in sorted order: the classes of the dataset."""
