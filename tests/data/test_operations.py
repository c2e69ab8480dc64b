"""Operations on pictures are torchvision's, in a few bytes per pixel."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unsquare.data import operations
from unsquare.data.appearance import draw_window
from unsquare.data.augment import AugmentConfig, image_rng, streams
from unsquare.data.auto_augment import Operation, draw_operations
from unsquare.errors import ConfigError
from unsquare.shapes import Shape

from torchvision.transforms import v2  # isort: skip  # after unsquare, which lets one built for another torch be imported

POLICIES = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}
MOVING = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}
BLENDS = [0.9, 0.33, -0.43, -0.99]
MAGNITUDES = {
    "Identity": [0.0],
    "ShearX": [0.123, -0.77],
    "ShearY": [0.123, -0.77],
    "TranslateX": [5.0, -31.4, 400.0],
    "TranslateY": [5.0, -31.4, 400.0],
    "Rotate": [7.31, -122.7],
    "Brightness": BLENDS,
    "Color": BLENDS,
    "Contrast": BLENDS,
    "Sharpness": BLENDS,
    "Posterize": [8, 5, 2],
    "Solarize": [1.0, 0.5, 0.0],
    "AutoContrast": [0.0],
    "Equalize": [0.0],
}
ROUNDED_OTHERWISE = {"Color": 0.02, "Sharpness": 0.001}
"""The part of the values that may differ by 1: torch fuses product and sum, and a whole number may be cut to the one
below."""


def noise(height: int, width: int) -> np.ndarray:
    """Random values, brighter in one channel, so that channels differ in range."""
    rng = np.random.default_rng(height * width)
    return rng.integers([0, 20, 90], [256, 200, 180], (height, width, 3)).astype(np.uint8)


def torchvisions(image: np.ndarray, name: str, magnitude: float) -> np.ndarray:
    """What torchvision's policies make of a whole picture; places are computed in float64 there, as here."""
    policy = v2.RandAugment(fill=list(operations.FILL))
    planes = torch.from_numpy(image.transpose(2, 0, 1).copy())
    planes = planes.double() if name in MOVING else planes
    out = policy._apply_image_or_video_transform(planes, name, magnitude, policy.interpolation, policy._fill)
    return out.numpy().transpose(1, 2, 0)


@pytest.mark.parametrize("shape", [(64, 80), (301, 190), (2, 7), (1, 1)])
@pytest.mark.parametrize("name", MAGNITUDES)
def test_an_operation_is_torchvisions(name: str, shape: tuple[int, int]) -> None:
    """Each value is the same, but for rounding where neighbors or channels are blended."""
    image = noise(*shape)
    for magnitude in MAGNITUDES[name]:
        found, wanted = operations.apply(name, image, magnitude), torchvisions(image, name, magnitude)
        different = np.abs(found.astype(int) - wanted)
        assert different.max() <= (name in ROUNDED_OTHERWISE)
        assert np.count_nonzero(different) <= ROUNDED_OTHERWISE.get(name, 0) * different.size


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.3, 2.0])
def test_blur_is_torchvisions(sigma: float) -> None:
    """The Gaussian filter of a whole picture, reflected at its edges, but for rounding of a half."""
    image = noise(270, 40)
    kernel = 2 * math.ceil(3 * sigma) + 1
    planes = torch.from_numpy(image.transpose(2, 0, 1).copy())
    wanted = v2.functional.gaussian_blur(planes, [kernel, kernel], [sigma, sigma]).numpy().transpose(1, 2, 0)
    different = np.abs(operations.blurred(image, sigma).astype(int) - wanted)
    assert different.max() <= 1
    assert np.count_nonzero(different) <= different.size / 1000


def test_blur_takes_pictures_smaller_than_its_kernel() -> None:
    """A picture of one color stays so, whatever its size."""
    for shape in ((1, 1), (1, 9), (3, 2)):
        image = np.full((*shape, 3), 77, np.uint8)
        np.testing.assert_array_equal(operations.blurred(image, 2.0), image)


@pytest.mark.parametrize("name", [*MAGNITUDES, "blur"])
def test_an_operation_takes_little_more_than_its_result(name: str) -> None:
    """The peak is the result's 3 bytes per pixel and strips of constant size; the picture itself is left alone."""
    image = noise(1500, 1000)
    copy = image.copy()
    tracemalloc.start()
    if name == "blur":
        operations.blurred(image, 2.0)
    else:
        operations.apply(name, image, MAGNITUDES[name][0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 1500 * 1000 + 4_000_000
    np.testing.assert_array_equal(image, copy)


@pytest.mark.parametrize("kind", POLICIES)
def test_a_policy_draws_from_torchvisions_space(kind: str) -> None:
    """The operations and all their magnitudes, with both signs where there is one to draw, are torchvision's."""
    height, width = 90, 331
    policy = POLICIES[kind]()
    wanted = set()
    for name, (magnitudes_of, signed) in policy._AUGMENTATION_SPACE.items():
        values = magnitudes_of(31, height, width)
        values = [0.0] if values is None else values.tolist()
        if kind == "randaugment" and len(values) > 1:
            values = [values[9]]
        wanted |= {(name, round(value * sign, 3) + 0.0) for value in values for sign in ((1, -1) if signed else (1,))}
    drawn: set[tuple[str, float]] = set()
    rng = np.random.default_rng(0)
    for _ in range(8000):
        found = draw_operations(AugmentConfig(auto_augment=kind), Shape(height, width), rng)
        assert len(found) == (2 if kind == "randaugment" else 1)
        drawn |= {(each.name, round(each.magnitude, 3) + 0.0) for each in found}
    assert drawn == wanted


def test_oriented_pictures_are_never_turned_or_mirrored() -> None:
    """Neither flips nor rotations are drawn, and what would ask for them is refused."""
    rng = np.random.default_rng(0)
    config = AugmentConfig(oriented=True, auto_augment="trivialaugment")
    assert not config.mirrors
    names = {each.name for _ in range(500) for each in draw_operations(config, Shape(60, 80), rng)}
    assert len(names) == 13
    assert "Rotate" not in names
    for name in ("turns", "flip_vertical"):
        with pytest.raises(ConfigError, match=f"Oriented pictures are never turned, but {name} is on as well; leave"):
            AugmentConfig(oriented=True, **{name: True})


def test_the_strength_of_randaugment_is_the_users() -> None:
    """The ends of the scale are torchvision's: nothing, and the largest magnitudes."""
    for level, angle in ((0, 0.0), (30, 30.0)):
        rng = np.random.default_rng(0)
        config = AugmentConfig(auto_augment="randaugment", auto_augment_magnitude=level)
        drawn = [each for _ in range(200) for each in draw_operations(config, Shape(60, 80), rng)]
        assert {abs(each.magnitude) for each in drawn if each.name == "Rotate"} == {angle}
    with pytest.raises(ConfigError, match="auto_augment_magnitude must be at most 30, but is 31"):
        AugmentConfig(auto_augment_magnitude=31)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 999))
def test_an_erased_rectangle_lies_within_the_picture(height: int, width: int, seed: int) -> None:
    """It is smaller than the picture both ways, has 2 to 33 % of it to rounding, and becomes the mean color."""
    shape = Shape(height, width)
    window = draw_window(shape, np.random.default_rng(seed))
    if window is None:
        return
    rows, columns = window
    assert 0 <= rows.start <= rows.stop < height + (rows.start > 0)
    assert 0 <= columns.start <= columns.stop < width + (columns.start > 0)
    tall, wide = rows.stop - rows.start, columns.stop - columns.start
    assert (tall - 0.5) * (wide - 0.5) <= 0.33 * shape.pixels
    assert (tall + 0.5) * (wide + 0.5) >= 0.02 * shape.pixels
    image = noise(height, width)
    out = operations.erased(image, rows, columns)
    assert (out[rows, columns] == operations.FILL).all()
    out[rows, columns] = image[rows, columns]
    np.testing.assert_array_equal(out, image)


def test_each_change_has_its_own_draws() -> None:
    """What one change draws moves no other: each has a generator of its own, the same for the same image."""
    first, again = streams(image_rng(1, 2, 3)), image_rng(1, 2, 3)
    again.random(50)
    first.auto_augment.random(7)
    assert first.blur.random() == streams(again).blur.random()
    firsts = [generator.random() for generator in streams(image_rng(1, 2, 3))]
    assert len(set(firsts)) == len(firsts)


def test_operations_are_values() -> None:
    """Two draws of the same are equal, so a draw can be compared."""
    config = AugmentConfig(auto_augment="randaugment")
    one, two = (draw_operations(config, Shape(50, 60), image_rng(0, 1, 2)) for _ in range(2))
    assert one == two
    assert all(isinstance(each, Operation) for each in one)
