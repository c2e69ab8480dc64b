"""Lower bounds, beside the best there is."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plan.partition.test_tight import all_partitions, price, random_cases, within_budget

from unsquare.plan import Limits, PlanConfig, ledger, plan_epoch
from unsquare.plan.analysis import lower_bound as module
from unsquare.plan.analysis.lower_bound import lower_bound


def test_no_partition_beats_the_bound():
    """Of all partitions of up to 6 images none costs less or has fewer parts; some cases reach the bound."""
    reached = 0
    for sizes, limits in random_cases(120):
        found = lower_bound(sizes, limits)
        allowed = [p for p in all_partitions(list(range(len(sizes)))) if within_budget(sizes, p, limits)]
        best = min(price(sizes, parts, limits) for parts in allowed)
        assert found.cost <= best
        assert found.micro_batches <= min(len(parts) for parts in allowed)
        reached += found.cost >= best - 1
    assert reached > 10


def test_the_short_bound_is_below_the_long_one(monkeypatch, random_sizes):
    """What is used for many images promises less than what is used for few, and never more than is there."""
    limits = Limits(budget_pixels=20_000, launch_pixels=500)
    paired = lower_bound(random_sizes, limits)
    monkeypatch.setattr(module, "PAIRED_IMAGES", 0)
    short = lower_bound(random_sizes, limits)
    assert random_sizes.prod(axis=1).sum() < short.cost <= paired.cost
    assert short.micro_batches <= paired.micro_batches


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=60),
    st.sampled_from(["mixed", "b2b"]),
    st.integers(1, 8),
    st.sampled_from([0, 100, 3000]),
)
def test_no_plan_beats_the_ledgers_bounds(sizes, steps, world_size, launch):
    """Predicted time and micro-batches are never below what the ledger calls the least."""
    config = PlanConfig(steps=steps, step_images=16)
    limits = Limits(world_size=world_size, budget_pixels=10_000, launch_pixels=launch)
    found = ledger(plan_epoch(sizes, config, limits, 0), config, limits)
    assert found.predicted_s >= found.least_s * (1 - 1e-12)
    assert found.time_over_least >= 1
    assert found.num_micro_batches >= found.least_micro_batches


def test_equal_shapes_reach_the_bound():
    """Where a whole number of full micro-batches holds all images, nothing could be better."""
    config, limits = PlanConfig(step_images=100), Limits(budget_pixels=1000, launch_pixels=70)
    found = ledger(plan_epoch(np.full((400, 2), 10), config, limits, 0), config, limits)
    assert found.num_micro_batches == found.least_micro_batches == 40
    assert abs(found.time_over_least - 1) < 1e-6
