"""Draws are the same for good."""

import numpy as np

from unsquare.plan.draw import Purpose, permutation, quarter_turns


def test_draws_are_pinned():
    """A later NumPy, or another machine, draws the same: a run may resume there."""
    assert permutation(3, 5, Purpose.ORDER, 8).tolist() == [5, 0, 6, 3, 4, 1, 2, 7]
    assert quarter_turns(3, 5, 8).tolist() == [2, 0, 1, 2, 2, 0, 0, 0]


def test_purposes_draw_apart():
    """Order and steps do not share a stream."""
    order, steps = (permutation(0, 0, purpose, 100) for purpose in (Purpose.ORDER, Purpose.STEPS))
    assert sorted(order.tolist()) == list(range(100))
    assert (order != steps).any()
    assert np.abs(np.corrcoef(order, steps)[0, 1]) < 0.5
