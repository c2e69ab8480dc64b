"""Boundaries along one order of shapes, beside the best there are."""

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unsquare.plan import Limits
from unsquare.plan.buckets.grid import back_and_forth, least_cost


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 5)), min_size=1, max_size=8),
    st.integers(1, 9),
    st.sampled_from([0, 40, 500]),
)
def test_dynamic_programming_finds_the_best_boundaries(rows, most, launch):
    """Of all ways to cut an order into at most so many runs, the one of least cost; its cost is the true one."""
    shapes, counts = np.array(rows)[:, :2], np.array(rows)[:, 2]
    limits = Limits(budget_pixels=2000, launch_pixels=launch)

    def price(ends):
        starts = [0, *ends[:-1]]
        runs = [(shapes[a:b].max(axis=0).prod(), counts[a:b].sum()) for a, b in zip(starts, ends)]
        return sum(area * count + launch * -(-count // max(2000 // area, 1)) for area, count in runs)

    n = len(shapes)
    ways = [[*inner, n] for k in range(min(most, n)) for inner in combinations(range(1, n), k)]
    ends, total = least_cost(shapes, counts, most, limits.cost)
    assert price(ends.tolist()) == total == min(price(way) for way in ways)
    assert back_and_forth(shapes, counts, most, limits.cost)[1] >= total


def test_back_and_forth_beats_quantiles():
    """Boundaries move from equal counts to where the shapes jump, and the cost returned is the true one."""
    lengths = np.array([1] * 90 + [10] * 6 + [100] * 4)
    shapes = np.stack([lengths, lengths], axis=1)
    ends, total = back_and_forth(shapes, np.ones(100, dtype=int), 3, Limits(budget_pixels=10**6, launch_pixels=0).cost)
    assert ends.tolist() == [90, 96, 100]
    assert total == 90 + 600 + 40_000
