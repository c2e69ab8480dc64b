"""Draws are the same for good, and uniform."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsquare.plan import draw
from unsquare.plan.draw import ROUNDS, Order, Purpose, bits, quarter_turns, swap_or_not


def keys(seed):
    """Keys of one keyed permutation."""
    return bits(seed, 0, Purpose.ORDER, 2 * ROUNDS).reshape(ROUNDS, 2)


def test_draws_are_pinned():
    """A later NumPy, or another machine, draws the same: a run may resume there."""
    assert Order(3, 5, Purpose.ORDER, 8).all().tolist() == [5, 0, 6, 3, 4, 1, 2, 7]
    assert quarter_turns(3, 5, 8).tolist() == [2, 0, 1, 2, 2, 0, 0, 0]
    assert swap_or_not(np.arange(8), 8, keys(3)).tolist() == [3, 0, 4, 6, 2, 5, 7, 1]


def test_purposes_draw_apart():
    """Order and steps do not share a stream, nor do two orders of one purpose."""
    order, steps, other = (
        Order(0, 0, purpose, 100, number).all()
        for purpose, number in ((Purpose.ORDER, 0), (Purpose.STEPS, 0), (Purpose.ORDER, 1))
    )
    assert sorted(order.tolist()) == list(range(100))
    for another in (steps, other):
        assert np.abs(np.corrcoef(order, another)[0, 1]) < 0.5


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 100))
def test_the_keyed_order_has_each_thing_once(length, seed):
    """Whatever the length, it is a permutation, and a place asked for alone gives the same."""
    order = swap_or_not(np.arange(length), length, keys(seed))
    assert sorted(order.tolist()) == list(range(length))
    assert swap_or_not(np.array([length // 2]), length, keys(seed)) == order[length // 2]


@pytest.mark.parametrize("length", [2, 3, 4])
def test_every_keyed_order_is_as_likely(length):
    """Over many keys all orders of a few things come equally often (chi-square within 5 standard deviations)."""
    ways = {way: number for number, way in enumerate(permutations(range(length)))}
    trials = 100 * len(ways)
    found = [ways[tuple(swap_or_not(np.arange(length), length, keys(seed)).tolist())] for seed in range(trials)]
    chi_square = ((np.bincount(found, minlength=len(ways)) - 100) ** 2 / 100).sum()
    degrees = len(ways) - 1
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees)


def test_a_long_order_is_not_held_and_looks_random(monkeypatch):
    """Above the sorted length, neighbours in the order are no neighbours in the index, and places fill evenly."""
    monkeypatch.setattr(draw, "SORTED", 1000)
    order = Order(0, 0, Purpose.ORDER, 10_007)
    assert order._order is None
    things = order.all()
    assert sorted(things.tolist()) == list(range(10_007))
    assert order.run(4090, 8200).tolist() == things[4090:8200].tolist()
    assert abs(np.corrcoef(things[:-1], things[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(things, np.arange(10_007))[0, 1]) < 0.05
    table = np.histogram2d(np.arange(10_007), things, bins=10)[0]
    chi_square = ((table - 100.07) ** 2 / 100.07).sum()
    assert 81 - 5 * 12.7 < chi_square < 81 + 5 * 12.7
    far = Order(0, 0, Purpose.ORDER, 10**8).run(4000, 5000)
    assert len(set(far.tolist())) == 1000
    assert 0.4e8 < far.mean() < 0.6e8
