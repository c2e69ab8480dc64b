"""Statistics of the pages, against known values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.report.kit.statistics import random_batch_overhead, smooth, wilson_interval


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


def test_smoothing_keeps_a_constant_and_the_length() -> None:
    """Windows at the ends are shorter, not padded."""
    assert smooth(np.full(7, 2.0), 3).tolist() == [2.0] * 7
    assert smooth(np.array([0.0, 3.0, 6.0]), 3).tolist() == [1.5, 3.0, 4.5]
