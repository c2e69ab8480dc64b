"""Draws never change, and are uniform; weighted and balanced epochs."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsquare.errors import PlanError
from unsquare.plan import Limits, PlanConfig, class_weights, draw, plan_epoch
from unsquare.plan.draw import (
    LEAST_SIDE,
    ROUNDS,
    Order,
    Purpose,
    bits,
    quarter_turns,
    random_scales,
    repeated,
    swap_or_not,
)
from unsquare.shapes import scaled


def keys(seed):
    """Keys of one keyed permutation."""
    return bits(seed, 0, Purpose.ORDER, 2 * ROUNDS).reshape(ROUNDS, 2)


def test_draws_are_pinned():
    """A later NumPy, or another machine, draws the same: a run may resume there."""
    assert Order(3, 5, Purpose.ORDER, 8).all().tolist() == [5, 0, 6, 3, 4, 1, 2, 7]
    assert quarter_turns(3, 5, 8).tolist() == [2, 0, 1, 2, 2, 0, 0, 0]
    assert swap_or_not(np.arange(8), 8, keys(3)).tolist() == [3, 0, 4, 6, 2, 5, 7, 1]


def test_purposes_draw_apart():
    """Order and steps do not share their bits, nor do two orders of one purpose."""
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
    """Above the sorted length, neighbors in the order are no neighbors in the index, and places fill evenly."""
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


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(0, 5), min_size=1, max_size=50).filter(any), st.integers(0, 20))
def test_each_image_comes_as_often_as_it_is_due(weights, epoch):
    """In every epoch the whole number below or above N w / sum(w), and N images in all."""
    values = np.array(weights)
    images = repeated(values, len(values), 0, epoch)
    assert len(images) == len(values)
    assert (np.diff(images) >= 0).all()
    due = values / values.sum() * len(values)
    assert (np.abs(np.bincount(images, minlength=len(values)) - due) < 1 + 1e-6).all()


def test_over_epochs_the_mean_is_what_is_due():
    """A weight of a half comes every other epoch, at random, and not together with its neighbor."""
    weights = np.array([0.5] * 8 + [1.0] * 4)
    counts = np.array([np.bincount(repeated(weights, 12, 0, epoch), minlength=12) for epoch in range(1000)])
    assert np.allclose(counts.mean(axis=0), weights * 1.5, atol=0.08)
    assert np.abs(np.corrcoef(counts[:, :2].T)[0, 1]) < 0.4


@pytest.mark.parametrize("steps", ["mixed", "b2b"])
def test_balanced_epochs_show_each_class_as_often(steps, random_sizes):
    """Of classes of 150, 40 and 10 images an epoch shows 66 or 67 each, within the same rules as any plan."""
    labels = np.repeat([0, 1, 2], [150, 40, 10])
    config = PlanConfig(steps=steps, sampling="balanced", step_images=20)
    limits = Limits(budget_pixels=10_000, launch_pixels=50)
    plan = plan_epoch(random_sizes, config, limits, 0, weights=class_weights(labels))
    images = np.concatenate([batch.images for batch in plan.micro_batches])
    assert len(images) == 200
    assert (np.abs(np.bincount(labels[images]) - 200 / 3) <= 2).all()
    for batch in plan.micro_batches:
        assert batch.canvas == tuple(random_sizes[batch.images].max(axis=0))
        assert batch.computed_pixels <= 10_000


def test_unlabelled_images_keep_the_mean_weight():
    """Weights of known classes average 1, as an image without a class has."""
    weights = class_weights([0, 0, 0, 1, -1])
    assert weights.tolist() == [4 / 6, 4 / 6, 4 / 6, 2, 1]
    assert class_weights([-1, -1]).tolist() == [1, 1]


@pytest.mark.parametrize("weights", [[1.0, np.nan], [1.0, -1.0], [0.0, 0.0], [1.0]])
def test_weights_are_checked(weights):
    """Missing, negative or no weight at all is refused with what was received."""
    with pytest.raises(PlanError, match="one finite number of at least 0 for each of the 2 images"):
        plan_epoch([(3, 3), (4, 4)], PlanConfig(), Limits(), 0, weights=weights)


def test_balanced_sampling_needs_weights():
    """The planner knows no labels, so it says what to pass."""
    with pytest.raises(PlanError, match="class_weights"):
        plan_epoch([(3, 3)], PlanConfig(sampling="balanced"), Limits(), 0)


@given(st.integers(0, 5), st.floats(0.1, 1.0))
def test_scales_are_within_bounds_and_leave_sides(seed, least):
    """From `least` to 1, other in each epoch; no side falls below 64 pixels, and a smaller one keeps its size."""
    sizes = np.random.default_rng(seed).integers(10, 500, (200, 2))
    scales = random_scales(sizes, least, seed, 3)
    assert ((scales >= least) & (scales <= 1)).all()
    small = sizes.min(axis=1) <= LEAST_SIDE
    assert (scales[small] == 1).all()
    assert (scaled(sizes, scales)[~small].min(axis=1) >= LEAST_SIDE).all()
    assert (scales == random_scales(sizes, least, seed, 3)).all()
    assert least > 0.99 or (scales[~small] != random_scales(sizes, least, seed, 4)[~small]).any()
