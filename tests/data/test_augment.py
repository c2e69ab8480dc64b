"""Crops, flips, turns and colors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from unsquare.data.augment import AugmentConfig, augment, image_rng
from unsquare.errors import ConfigError
from unsquare.shapes import Shape

STILL = AugmentConfig(flip_horizontal=False)


def noise(height: int, width: int) -> np.ndarray:
    """A picture in which no two pixels are likely to be alike."""
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    part=st.floats(0, 1),
    turn=st.integers(0, 3),
    flips=st.tuples(st.booleans(), st.booleans()),
    jitter=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 1000),
)
def test_the_shape_is_known_beforehand(height, width, part, turn, flips, jitter, seed) -> None:
    """Whatever is drawn, the shape is the crop's, its sides swapped by an odd turn; type and layout stay."""
    crop = Shape(max(1, int(height * part)), max(1, int(width * part)))
    config = AugmentConfig(flip_horizontal=flips[0], flip_vertical=flips[1], turns=True, color_jitter=jitter)
    out = augment(noise(height, width), crop=crop, turn=turn, rng=image_rng(seed, 0, 0), config=config)
    assert out.shape == ((crop[1], crop[0], 3) if turn % 2 else (*crop, 3))
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous


def test_nothing_asked_nothing_changed() -> None:
    """Without crop, flip, turn and jitter the picture stays as it is."""
    image = noise(7, 9)
    out = augment(image, crop=Shape(7, 9), turn=0, rng=image_rng(0, 0, 0), config=STILL)
    np.testing.assert_array_equal(out, image)


def test_the_original_is_left_alone() -> None:
    """Augmenting never writes into the picture it was given."""
    image = noise(20, 30)
    copy = image.copy()
    config = AugmentConfig(flip_vertical=True, color_jitter=0.9)
    for position in range(8):
        augment(image, crop=Shape(9, 30), turn=position % 4, rng=image_rng(0, 0, position), config=config)
    np.testing.assert_array_equal(image, copy)


def test_a_crop_is_a_window_of_the_picture() -> None:
    """Every crop occurs in the picture as it is, and every place is reached."""
    image = np.arange(30, dtype=np.uint8).reshape(5, 6, 1).repeat(3, axis=2)
    corners = set()
    for position in range(200):
        out = augment(image, crop=Shape(3, 4), turn=0, rng=image_rng(0, 0, position), config=STILL)
        top, left = divmod(int(out[0, 0, 0]), 6)
        np.testing.assert_array_equal(out, image[top : top + 3, left : left + 4])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(3) for left in range(3)}


def test_flips_come_every_second_time() -> None:
    """Each flip that is on happens in about half of the draws, independently; one that is off never does."""
    image = noise(4, 5)
    forms = {
        "none": image,
        "mirrored": image[:, ::-1],
        "upended": image[::-1],
        "both": image[::-1, ::-1],
    }
    both = AugmentConfig(flip_vertical=True)
    for config, expected in ((both, {"none", "mirrored", "upended", "both"}), (AugmentConfig(), {"none", "mirrored"})):
        counts = dict.fromkeys(forms, 0)
        for position in range(400):
            out = augment(image, crop=Shape(4, 5), turn=0, rng=image_rng(1, 2, position), config=config)
            counts[next(name for name, form in forms.items() if np.array_equal(out, form))] += 1
        assert {name for name, count in counts.items() if count} == expected
        assert min(counts[name] for name in expected) > 0.6 * 400 / len(expected)


@pytest.mark.parametrize("turn", range(4))
def test_turns_are_quarter_turns(turn: int) -> None:
    """The plan's number turns the picture that many times counter-clockwise."""
    image = noise(3, 8)
    out = augment(image, crop=Shape(3, 8), turn=turn, rng=image_rng(0, 0, 0), config=STILL)
    np.testing.assert_array_equal(out, np.rot90(image, turn))


def test_a_draw_hangs_on_seed_epoch_and_image_alone() -> None:
    """The same three numbers draw the same, any other draws otherwise."""
    draws = {key: image_rng(*key).integers(1 << 60) for key in np.ndindex(4, 4, 4)}
    assert all(image_rng(*key).integers(1 << 60) == value for key, value in draws.items())
    assert len(set(draws.values())) == len(draws)


def test_one_setting_does_not_change_anothers_draws() -> None:
    """Turning jitter or turns on leaves the crop and the flips where they were."""
    image = noise(12, 14)
    for position in range(20):
        draw = {"crop": Shape(5, 6), "turn": 0}
        plain = augment(image, **draw, rng=image_rng(0, 0, position), config=AugmentConfig())
        faint = augment(image, **draw, rng=image_rng(0, 0, position), config=AugmentConfig(color_jitter=1e-9))
        assert np.abs(plain.astype(int) - faint).max() <= 1


def test_jitter_is_what_the_usual_enhancements_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brightness, contrast and saturation match Pillow's enhancements to rounding, where nothing clips."""
    image = (noise(40, 50) // 3 + 80).astype(np.uint8)

    class Fixed(np.random.Generator):
        def uniform(self, low, high, size):
            return np.array([0.1, -0.2, 0.3])

    rng = Fixed(np.random.Philox(0))
    out = augment(
        image, crop=Shape(40, 50), turn=0, rng=rng, config=AugmentConfig(flip_horizontal=False, color_jitter=1 - 1e-12)
    )
    expected = ImageEnhance.Brightness(Image.fromarray(image)).enhance(1.1)
    expected = ImageEnhance.Contrast(expected).enhance(0.8)
    expected = ImageEnhance.Color(expected).enhance(1.3)
    assert np.abs(out.astype(int) - np.asarray(expected)).max() <= 3


def test_jitter_clips_and_does_not_wrap() -> None:
    """Bright stays bright and dark dark: values beyond 0 and 255 stop there."""
    config = AugmentConfig(flip_horizontal=False, color_jitter=0.9)
    image = np.concatenate([np.zeros((4, 8, 3), np.uint8), np.full((4, 8, 3), 255, np.uint8)])
    for position in range(50):
        out = augment(image, crop=Shape(8, 8), turn=0, rng=image_rng(0, 0, position), config=config)
        assert (out[:4] <= out[4:]).all()


@pytest.mark.parametrize("jitter", [-0.1, 1.0, float("nan")])
def test_jitter_has_a_range(jitter: float) -> None:
    """A strength outside [0, 1) is refused with the value received."""
    with pytest.raises(ConfigError, match=r"color_jitter must be .*(at least 0|below 1), but is"):
        AugmentConfig(color_jitter=jitter)


def test_a_crop_larger_than_the_picture_is_a_mistake() -> None:
    """The plan never asks for more than there is."""
    with pytest.raises(AssertionError, match="inside the picture"):
        augment(noise(4, 4), crop=Shape(5, 4), turn=0, rng=image_rng(0, 0, 0), config=STILL)
