"""Figures of any policy's epoch, against counting by hand and by brute force."""

import numpy as np
import pytest

from unsquare.plan import Limits, PlanConfig, PlanTable, ledger, plan_epoch
from unsquare.plan.analysis.policies import figures_of

SIZES = np.array([(10, 10), (10, 8), (4, 4), (4, 5)])
LIMITS = Limits(budget_pixels=190, launch_pixels=25, pixels_per_s=100)


def test_figures_by_hand():
    """Canvases 10 x 10 and 4 x 5, two images each: 240 pixels for 216, and the first exceeds the budget of 190."""
    table = PlanTable.of_runs(SIZES, np.arange(4), np.array([2, 2]))
    found = figures_of("two", True, table, LIMITS, [0, 1, 0, 0])
    assert found.padding_overhead == pytest.approx(240 / 216 - 1)
    assert (found.num_micro_batches, found.num_canvases, found.num_over_budget) == (2, 2, 1)
    assert found.mean_fill == pytest.approx((200 + 40) / 2 / 190)
    assert found.predicted_s == pytest.approx((240 + 2 * 25) / 100)
    assert found.class_skew == pytest.approx(0.25)


def test_no_labels_no_skew():
    """Unlabeled lists, or lists without a known label, have no class skew."""
    table = PlanTable.of_runs(SIZES, np.arange(4), np.array([2, 2]))
    assert figures_of("two", True, table, LIMITS).class_skew is None
    assert figures_of("two", True, table, LIMITS, np.full(4, -1)).chance_skew is None


@pytest.mark.parametrize("form", ["mixed", "b2b"])
def test_figures_of_our_plans_are_the_ledgers(form, random_sizes):
    """A plan's figures are those of its ledger: a step with several micro-batches is one step."""
    config = PlanConfig(steps=form, buckets=8, step_images=64)
    limits = Limits(budget_pixels=20_000, launch_pixels=300)
    plan, labels = plan_epoch(random_sizes, config, limits, 0), np.arange(200) % 5
    own = ledger(plan, config, limits, labels)
    found = figures_of(form, True, PlanTable.of_plan(plan), limits, labels)
    assert found.padding_overhead == pytest.approx(own.padding_overhead)
    assert found.num_micro_batches == own.num_micro_batches
    assert found.mean_fill == pytest.approx(own.mean_fill)
    assert found.class_skew == pytest.approx(own.step_class_skew)
    assert found.num_over_budget == 0
