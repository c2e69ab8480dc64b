"""A bounded set of canvases, beside the best there is."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsquare.errors import PlanError
from unsquare.plan.buckets import canvases as module
from unsquare.plan.buckets.canvases import cheapest_canvas, choose_canvases, savings
from unsquare.plan.config import Limits

GENEROUS = Limits(budget_pixels=64_000_000)


def price(sizes, counts, canvases):
    """Computed pixels with every image on the cheapest canvas that holds it, from first principles."""
    holds = (sizes[:, None] <= canvases).all(axis=2)
    assert holds.any(axis=1).all(), "a canvas holds each shape"
    return int(counts @ np.where(holds, canvases.prod(axis=1), 2**40).min(axis=1))


def best_price(sizes, counts, most, budget_pixels):
    """The least price of all sets of canvases; None where none within the budget holds every shape."""
    places = np.array(
        [(h, w) for h in np.unique(sizes[:, 0]) for w in np.unique(sizes[:, 1]) if h * w <= budget_pixels]
    )
    costs = np.where((sizes[:, None] <= places).all(axis=2), places.prod(axis=1), 2**40)
    totals = [counts @ costs[:, list(few)].min(axis=1) for few in combinations(range(len(places)), most)]
    return min((int(total) for total in totals if total < 2**40), default=None)


def random_shapes(seed, num_shapes, most_side):
    """Distinct shapes and how many images have each."""
    rng = np.random.default_rng(seed)
    sizes = np.unique(rng.integers(1, most_side, (num_shapes, 2)), axis=0)
    return sizes, rng.integers(1, 20, len(sizes))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_shapes=st.integers(1, 80),
    most=st.integers(1, 12),
    multiple=st.sampled_from([1, 2, 8]),
    slack=st.sampled_from([1.0, 1.5, 100.0]),
)
def test_canvases_hold_every_shape_within_bounds(seed, num_shapes, most, multiple, slack):
    """Few enough, within the budget, sides multiples, every shape held; refused only where the budget binds."""
    sizes, counts = random_shapes(seed, num_shapes, 60)
    budget = int(sizes.prod(axis=1).max() * slack)
    try:
        canvases = choose_canvases(sizes, counts, most, Limits(budget_pixels=budget), multiple)
    except PlanError:
        assert slack < 100
        return
    assert 1 <= len(canvases) <= most
    assert (canvases % multiple == 0).all()
    assert canvases.prod(axis=1).max() <= budget
    assert (cheapest_canvas(sizes, canvases) >= 0).all()
    assert len(np.unique(canvases, axis=0)) == len(canvases)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_canvases_are_near_the_best_of_all(most):
    """Of all sets of canvases for 8 shapes nearly always the best, and refused only where there is none.

    Single moves end where only two together save: of 335 cases of 9 shapes 4 % were not the best, the worst 16 %
    dearer, 0.1 % on average of all.
    """
    ratios = []
    for seed in range(15):
        sizes, counts = random_shapes(seed, 8, 30)
        budget = int(sizes.prod(axis=1).max() * (1.05, 1.3, 9)[seed % 3])
        best = best_price(sizes, counts, most, budget)
        if best is None:
            with pytest.raises(PlanError, match="Every image must fit one of"):
                choose_canvases(sizes, counts, most, Limits(budget_pixels=budget))
            continue
        canvases = choose_canvases(sizes, counts, most, Limits(budget_pixels=budget))
        ratios.append(price(sizes, counts, canvases) / best)
    assert min(ratios) >= 1
    assert max(ratios) <= 1.2
    assert np.mean(ratios) <= 1.01


def test_savings_are_what_a_canvas_more_saves():
    """Each place's saving, beside the sum over shapes."""
    rng = np.random.default_rng(4)
    sizes, counts = random_shapes(4, 60, 40)
    prices = (sizes.prod(axis=1) * rng.uniform(0.8, 2.5, len(sizes))).round()
    heights, widths = np.unique(rng.integers(1, 45, 12)), np.unique(rng.integers(1, 45, 9))
    expected = [
        [
            sum(
                counts[i] * max(prices[i] - h * w, 0)
                for i in range(len(sizes))
                if sizes[i, 0] <= h and sizes[i, 1] <= w
            )
            for w in widths
        ]
        for h in heights
    ]
    np.testing.assert_array_equal(savings(heights, widths, sizes, counts, prices), expected)


def test_as_many_canvases_as_shapes_pad_nothing():
    """Where every shape may have a canvas, it has its own."""
    sizes, counts = random_shapes(1, 30, 40)
    assert price(sizes, counts, choose_canvases(sizes, counts, 30, GENEROUS)) == counts @ sizes.prod(axis=1)


def test_counts_decide():
    """The one canvas to spare goes to the shape that most images have."""
    sizes = np.array([(10, 10), (10, 20), (20, 20)])
    canvases = choose_canvases(sizes, np.array([9, 1, 1]), 2, GENEROUS)
    assert canvases.tolist() == [[10, 10], [20, 20]]


def test_same_shapes_give_same_canvases():
    """Neither the order of the shapes nor equal rows instead of counts change anything."""
    sizes, counts = random_shapes(2, 80, 50)
    order = np.random.default_rng(0).permutation(len(sizes))
    canvases = choose_canvases(sizes, counts, 6, GENEROUS)
    assert (choose_canvases(sizes[order], counts[order], 6, GENEROUS) == canvases).all()
    rows = np.repeat(sizes, counts, axis=0)
    assert (choose_canvases(rows, np.ones(len(rows), dtype=np.int64), 6, GENEROUS) == canvases).all()


def test_tall_and_wide_shapes_do_not_share_a_canvas_over_the_budget():
    """One canvas for both exceeds the budget: refused with what would do."""
    sizes, counts = np.array([(100, 10), (10, 100)]), np.array([1, 1])
    with pytest.raises(PlanError, match=r"one of 1 canvases of at most 2,000 pixels, but that takes 2; allow as many"):
        choose_canvases(sizes, counts, 1, Limits(budget_pixels=2000))
    assert len(choose_canvases(sizes, counts, 1, Limits(budget_pixels=10_000))) == 1


def test_shape_that_its_multiple_takes_over_the_budget_is_refused():
    """A shape within the budget whose rounded sides are not cannot have a canvas."""
    with pytest.raises(PlanError, match=r"multiples of 32 within .* 10,000 pixels, but one needs 128 x 128 = 16,384"):
        choose_canvases(np.array([(100, 100)]), np.array([1]), 4, Limits(budget_pixels=10_000), 32)


def test_like_shapes_searched_together_pad_little_more(monkeypatch):
    """More distinct shapes than cells cost less than 1 % of what is computed, and stay within bounds."""
    sizes, counts = random_shapes(3, 3000, 900)
    limits = Limits(budget_pixels=int(sizes.prod(axis=1).max()) + 9000)
    apart = price(sizes, counts, choose_canvases(sizes, counts, 20, limits))
    monkeypatch.setattr(module, "MOST_CELLS", (500, 1500))
    canvases = choose_canvases(sizes, counts, 20, limits)
    assert price(sizes, counts, canvases) <= 1.01 * apart
    assert canvases.prod(axis=1).max() <= limits.budget_pixels


def test_mame_pads_at_most_a_tenth_to_64_canvases(mame_sizes):
    """MAMe at 16 MP, each image padded to its canvas of 64: below 10 %, where no choice can be below 9.48 %."""
    distinct, counts = np.unique(mame_sizes, axis=0, return_counts=True)
    canvases = choose_canvases(distinct, counts, 64, Limits(budget_pixels=64_000_000))
    assert len(canvases) == 64
    assert 0.0948 <= price(distinct, counts, canvases) / mame_sizes.prod(axis=1).sum() - 1 <= 0.1
