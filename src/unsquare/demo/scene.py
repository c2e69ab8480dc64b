"""The scene: which object is where, in which colors and which light. It does not depend on the material.

Silhouettes are described in the unit square, so that a scene fits a picture of any shape; outline and light
are computed on a quarter of the pixels along each side and enlarged, because they are smooth.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from unsquare.demo.noise import Field, enlarge, smooth_noise
from unsquare.shapes import Shape

Color = npt.NDArray[np.float32]
"""Red, green, blue, (3,) float32 in [0, 1]."""

_COARSE = 4
"""Outline and light are computed on one pixel in this many along each side."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Everything in a picture except for the material."""

    seed: tuple[int, ...]
    """Seeds the silhouette and the light."""
    silhouette: str
    """One of `SILHOUETTES`."""
    color: Color
    """The object's own color."""
    tint: Color
    """The color toward which the texture shifts the object's own."""
    wall: tuple[Color, Color]
    """Background at the top and at the bottom."""
    light: float
    """Direction that the light comes from, in radians."""
    gloss: float
    """Strength of the highlight."""
    contrast: float
    """Strength of the texture: its standard deviation as part of the brightness."""


def draw_scene(seed: tuple[int, ...]) -> Scene:
    """The scene of this seed."""
    rng = np.random.default_rng(seed)
    hue = _draw_hue(rng)
    wall_hue, wall_saturation, wall_value = _draw_hue(rng), rng.uniform(0.02, 0.16), rng.uniform(0.16, 0.9)
    return Scene(
        seed=seed,
        silhouette=str(rng.choice(list(SILHOUETTES))),
        color=_color(hue, rng.uniform(0.05, 0.5), rng.uniform(0.45, 0.85)),
        tint=_color(hue + rng.uniform(-0.08, 0.08), rng.uniform(0.05, 0.5), rng.uniform(0.45, 0.85)),
        wall=(
            _color(wall_hue, wall_saturation, wall_value),
            _color(wall_hue, wall_saturation, wall_value * rng.uniform(0.55, 1.1)),
        ),
        light=rng.uniform(1.1 * pi, 1.9 * pi),
        gloss=rng.uniform(0.0, 0.3),
        contrast=rng.uniform(0.13, 0.24),
    )


def render(scene: Scene, texture: Field, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The photograph of a scene whose object has this texture.

    Args:
        scene: everything in the picture except for the texture.
        texture: the material's surface, (H, W), of zero mean and unit variance.
        rng: source of the camera's grain.

    Returns:
        (H, W, 3) uint8.
    """
    shape = Shape(*texture.shape)
    inside, shade, highlight, shadow = _relief(scene, shape)
    contrast = np.float32(scene.contrast)
    mix = np.clip(0.5 + 0.35 * texture, 0, 1)[..., None]
    surface = scene.color + np.float32(0.5) * mix * (scene.tint - scene.color)
    surface = surface * (shade * (1 + contrast * texture))[..., None]
    surface += (highlight * (1 + 2 * contrast * texture))[..., None]
    pixels = _wall(scene, shape) * (1 - shadow)[..., None]
    pixels += inside[..., None] * (surface - pixels)
    pixels += rng.normal(0, 0.008, shape).astype(np.float32)[..., None]
    # Rounding to whole levels also hides last-bit differences between machines' math libraries.
    return np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)


def _relief(scene: Scene, shape: Shape) -> tuple[Field, Field, Field, Field]:
    """Coverage, brightness, highlight and cast shadow of the object, (H, W) each."""
    rng = np.random.default_rng((*scene.seed, 1))
    coarse = Shape(max(8, -(-shape.height // _COARSE)), max(8, -(-shape.width // _COARSE)))
    depth = SILHOUETTES[scene.silhouette](rng, *_unit_grid(coarse))
    depth = depth.astype(np.float32)
    lx, ly = cos(scene.light), sin(scene.light)
    dome = np.sqrt(np.clip(depth, 0.0, 0.35) / 0.35)
    slope_y, slope_x = np.gradient(_blur(dome, 0.03), 2 / coarse.height, 2 / coarse.width)
    lit = np.clip(-(lx * slope_x + ly * slope_y), -2.0, 2.0).astype(np.float32)
    y, x = _unit_grid(coarse)
    falloff = np.float32(0.10) * (lx * x + ly * y)
    shade = 0.90 + 0.17 * lit + falloff + 0.05 * smooth_noise(rng, coarse, max(4.0, min(coarse) / 3))
    highlight = scene.gloss * np.exp(-(((lit - 0.9) / 0.35) ** 2))
    covered = _blur((depth > 0).astype(np.float32), 0.02)
    shift = (round(-ly * 0.03 * coarse.height), round(-lx * 0.03 * coarse.width))
    shadow = 0.45 * _blur(np.roll(covered, shift, axis=(0, 1)), 0.04)
    full = enlarge(depth, shape)
    steep_y, steep_x = np.gradient(full)
    inside = np.clip(full / np.maximum(np.hypot(steep_y, steep_x), 1e-4) + 0.5, 0, 1)
    return inside.astype(np.float32), enlarge(shade, shape), enlarge(highlight, shape), enlarge(shadow, shape)


def _wall(scene: Scene, shape: Shape) -> npt.NDArray[np.float32]:
    """The background, (H, W, 3): a soft gradient with blotches."""
    rng = np.random.default_rng((*scene.seed, 2))
    top, bottom = scene.wall
    down = np.linspace(0, 1, shape.height, dtype=np.float32)[:, None, None]
    blotches = 1 + np.float32(0.05) * smooth_noise(rng, shape, max(8.0, min(shape) / 3))
    return (top + down * (bottom - top)) * blotches[..., None]


def _unit_grid(shape: Shape) -> tuple[Field, Field]:
    """y and x from -1 to 1 at the centers of the pixels."""
    y = (np.arange(shape.height, dtype=np.float32) + 0.5) / shape.height * 2 - 1
    x = (np.arange(shape.width, dtype=np.float32) + 0.5) / shape.width * 2 - 1
    return np.broadcast_to(y[:, None], shape), np.broadcast_to(x[None, :], shape)


def _blur(field: Field, fraction: float) -> Field:
    """Blurred by a fraction of the shorter side; in 8 bits, since Pillow's blur works on those."""
    image = Image.fromarray(np.rint(np.clip(field, 0, 1) * 255).astype(np.uint8))
    radius = max(1.0, fraction * min(field.shape))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / np.float32(255)


def _draw_hue(rng: np.random.Generator) -> float:
    """Mostly the warm hues of clay, wood, brass and varnish; sometimes any other."""
    return float(rng.normal(0.09, 0.04) if rng.uniform() < 0.65 else rng.uniform(0.0, 1.0))


def _color(hue: float, saturation: float, value: float) -> Color:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, min(value, 1.0)), dtype=np.float32)


def _vase(rng: np.random.Generator, y: Field, x: Field) -> Field:
    """Turned on a wheel: a width for each height, from lip to foot."""
    heights = np.linspace(-0.88, 0.88, 6)
    widths = np.array([rng.uniform(0.3, 0.6), rng.uniform(0.2, 0.45), *rng.uniform(0.45, 0.85, 3), 0.4])
    profile = np.interp(y[:, 0], heights, widths)
    soft = max(1, len(profile) // 10)
    profile = np.convolve(np.pad(profile, soft, mode="edge"), np.full(2 * soft + 1, 1 / (2 * soft + 1)), "valid")
    return np.minimum(profile[:, None] - np.abs(x), 0.88 - np.abs(y)).astype(np.float32)


def _plate(rng: np.random.Generator, y: Field, x: Field) -> Field:
    """Round, seen at an angle, sometimes with a wavy rim."""
    waves, amount, start = rng.integers(5, 14), rng.uniform(0, 0.03), rng.uniform(0, 2 * pi)
    radius = np.hypot(x / rng.uniform(0.75, 0.92), y / rng.uniform(0.65, 0.92))
    around = np.arctan2(y, x)
    return (0.8 * (1 + amount * np.sin(waves * around + start) - radius)).astype(np.float32)


def _statue(rng: np.random.Generator, y: Field, x: Field) -> Field:
    """A few round limbs melted together along a leaning spine."""
    lean, count = rng.uniform(-0.25, 0.25), int(rng.integers(3, 6))
    melted = np.zeros(y.shape, dtype=np.float32)
    for middle in np.linspace(-0.6, 0.6, count):
        center = lean * middle + rng.uniform(-0.15, 0.15)
        wide, high = rng.uniform(0.28, 0.62), rng.uniform(0.28, 0.4)
        melted += np.exp(-2.2 * (((x - center) / wide) ** 2 + ((y - middle) / high) ** 2))
    return (np.float32(0.35) * (np.log(np.maximum(melted, 1e-9)) + np.float32(1.6))).astype(np.float32)


def _fragment(rng: np.random.Generator, y: Field, x: Field) -> Field:
    """A broken piece: straight edges all round, all different."""
    count = int(rng.integers(5, 9))
    turns = (np.arange(count) + rng.uniform(0.15, 0.85, count)) * (2 * pi / count)
    edges = [rng.uniform(0.55, 0.85) - (cos(turn) * x + sin(turn) * y) for turn in turns]
    ripple = 0.015 * smooth_noise(rng, Shape(*y.shape), max(3.0, min(y.shape) / 12))
    return (np.min(edges, axis=0) + ripple).astype(np.float32)


def _coin(rng: np.random.Generator, y: Field, x: Field) -> Field:
    """Nearly round, struck off-center."""
    shift_x, shift_y = rng.uniform(-0.08, 0.08, 2)
    power = rng.uniform(1.8, 2.8)
    radius = (np.abs((x - shift_x) / 0.84) ** power + np.abs((y - shift_y) / 0.84) ** power) ** (1 / power)
    return (0.8 * (1 - radius)).astype(np.float32)


SILHOUETTES = {"coin": _coin, "fragment": _fragment, "plate": _plate, "statue": _statue, "vase": _vase}
"""Depth inside the outline (negative outside) by kind, from unit coordinates."""
