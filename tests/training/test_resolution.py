"""The sizes of pictures over the epochs of a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.errors import ConfigError
from unsquare.shapes import Geometry
from unsquare.training.resolution import ResolutionConfig, stage_geometry

SHARES = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@given(SHARES, st.integers(1, 40))
def test_the_stages_follow_each_other_and_the_last_epoch_is_full(shares: list[int], epochs: int) -> None:
    """In order, never back, each within one epoch of its share, and full at the end however few the epochs."""
    text = ",".join(f"{1000 * (number + 1)}:{share}" for number, share in enumerate(shares))
    config = ResolutionConfig(progressive=f"{text},full:1")
    sizes = [config.max_pixels_of(epoch, epochs) for epoch in range(epochs)]
    assert sizes[-1] is None
    known = [size or 10**9 for size in sizes]
    assert known == sorted(known)
    if epochs >= 2 * (sum(shares) + 1):
        for number, share in enumerate(shares):
            assert abs(known.count(1000 * (number + 1)) - epochs * share / (sum(shares) + 1)) <= 1


def test_a_cap_of_the_users_stays() -> None:
    """A stage never enlarges a picture, and never exceeds max_pixels."""
    assert stage_geometry(Geometry(max_pixels=10_000), 50_000, 32) == Geometry(max_pixels=10_000)
    assert stage_geometry(Geometry(max_pixels=90_000), 50_000, 32) == Geometry(max_pixels=50_000, min_side=32)
    assert stage_geometry(Geometry(scale=0.5), None, 32) == Geometry(scale=0.5)
    assert ResolutionConfig(progressive="off").max_pixels_of(0, 2) is None
    assert [ResolutionConfig(progressive=text).chooses for text in ("off", "full:1", "1MP:1,full:1")] == [0, 0, 1]


def test_no_side_falls_below_the_stride() -> None:
    """A strip that a network takes at full size is one that it takes in every stage."""
    geometry = stage_geometry(Geometry(), 10_000, 32)
    assert geometry.resize((40, 4000)).tolist() == [32, 3200]
    assert geometry.resize((400, 400)).tolist() == [100, 100]
    geometry = stage_geometry(Geometry(crop_fraction=0.5), 10_000, 32)
    assert geometry.crop(geometry.resize((70, 4000))).tolist() == [32, 1858]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("on", "Each stage of progressive must be a size and a share of the epochs above 0, .* but one is 'on'"),
        ("50kP:0,full:1", "one is '50kP:0'"),
        ("50kP:1", "The last stage of progressive must be full, but got '50kP:1'; add full:1"),
        ("full:1,50kP:1", "must be full"),
        (f"50kP:{'9' * 400},full:1", "Each stage of progressive must be a size and a share"),
        (f"{'9' * 5000}:1,full:1", "Each stage of progressive must be"),
        ("many:1,full:1", "one is 'many:1'"),
        ("50k:1,full:1", "one is '50k:1'"),
        ("", "one is ''"),
    ],
)
def test_mistakes_say_what_a_stage_is(text: str, message: str) -> None:
    """Before any picture is read."""
    with pytest.raises(ConfigError, match=message):
        ResolutionConfig(progressive=text)
