"""Statistics and units of the page, against known values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.report import units
from unsquare.report.statistics import (
    aspect_groups,
    confusion,
    random_batch_overhead,
    size_groups,
    smooth,
    wilson_interval,
)


def test_the_interval_is_wilsons() -> None:
    """Known values: 8 of 10, and the ends."""
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0)


@given(st.integers(1, 500), st.data())
def test_the_interval_holds_the_rate(num_images: int, data: st.DataObject) -> None:
    """It lies in [0, 1] and around the rate."""
    num_correct = data.draw(st.integers(0, num_images))
    low, high = wilson_interval(num_correct, num_images)
    assert 0 <= low <= num_correct / num_images + 1e-12
    assert num_correct / num_images - 1e-12 <= high <= 1


def test_images_of_one_shape_need_no_padding() -> None:
    """Any batch of them is all real."""
    assert random_batch_overhead(np.full((50, 2), 30), 8) == 0


def test_padding_is_to_the_largest_height_and_width() -> None:
    """Two images across each other fill half of their canvas."""
    assert random_batch_overhead(np.array([[10, 20], [20, 10]]), 2) == pytest.approx(1.0)


def test_confusion_counts_label_by_prediction() -> None:
    """Rows are labels, columns predictions."""
    counts = confusion(["a", "a", "b"], ["a", "b", "b"], ["a", "b", "c"])
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50), st.booleans()), min_size=1, max_size=60),
)
def test_groups_hold_every_image_once(rows: list[tuple[int, int, bool]]) -> None:
    """By size and by aspect ratio, whatever the shapes."""
    sizes = np.array([row[:2] for row in rows])
    correct = np.array([row[2] for row in rows])
    for groups in (size_groups(sizes, correct), aspect_groups(sizes, correct)):
        assert sum(group.num_images for group in groups) == len(rows)
        assert sum(group.num_correct for group in groups) == correct.sum()
        assert all(group.num_images for group in groups)


def test_size_groups_are_quarters() -> None:
    """A hundred sizes are four times twenty-five."""
    sizes = np.stack([np.arange(1, 101), np.full(100, 10)], axis=-1)
    groups = size_groups(sizes, np.ones(100, dtype=bool))
    assert [group.num_images for group in groups] == [25, 25, 25, 25]


def test_smoothing_keeps_a_constant_and_the_length() -> None:
    """Windows at the ends are shorter, not padded."""
    assert smooth(np.full(7, 2.0), 3).tolist() == [2.0] * 7
    assert smooth(np.array([0.0, 3.0, 6.0]), 3).tolist() == [1.5, 3.0, 4.5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.pixels(150_000), "150 kP"),
        (units.pixels(8.104e6), "8.1 MP"),
        (units.pixels(999_999), "1 MP"),
        (units.size(6 * 2**30), "6 GiB"),
        (units.duration(0.354), "0.35 s"),
        (units.duration(134), "2 min 14 s"),
        (units.duration(11_100), "3 h 5 min"),
        (units.percent(0.0312), "3.1 %"),
        (units.aspect(1.5), "1.5:1"),
        (units.aspect(0.25), "1:4"),
        (units.plural(1, "image"), "1 image"),
        (units.plural(1200, "image"), "1,200 images"),
        (units.digits(0.0), "0"),
    ],
)
def test_numbers_read_well(text: str, expected: str) -> None:
    """Three digits and a unit."""
    assert text.replace("\u00a0", " ") == expected
