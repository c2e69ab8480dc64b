"""Figures of any policy's epoch, against counting by hand and by brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.plan import Limits, PlanConfig, ledger, plan_epoch
from unsquare.plan.policies import Batches, figures_of

SIZES = np.array([(10, 10), (10, 8), (4, 4), (4, 5)])
LIMITS = Limits(budget_pixels=190, launch_pixels=25, pixels_per_s=100)


def test_figures_by_hand():
    """Canvases 10 x 10 and 4 x 5, two images each: 240 pixels for 216, and the first exceeds the budget of 190."""
    batches = Batches.tight(SIZES, np.arange(4), np.array([2, 2]))
    found = figures_of("two", True, batches, SIZES, LIMITS, [0, 1, 0, 0])
    assert found.padding_overhead == pytest.approx(240 / 216 - 1)
    assert (found.num_micro_batches, found.num_canvases, found.num_over_budget) == (2, 2, 1)
    assert found.mean_fill == pytest.approx((200 + 40) / 2 / 190)
    assert found.predicted_s == pytest.approx((240 + 2 * 25) / 100)
    assert found.class_skew == pytest.approx(0.25)


def test_no_labels_no_skew():
    """Unlabelled lists, or lists without a known label, have no class skew."""
    batches = Batches.tight(SIZES, np.arange(4), np.array([2, 2]))
    assert figures_of("two", True, batches, SIZES, LIMITS).class_skew is None
    assert figures_of("two", True, batches, SIZES, LIMITS, np.full(4, -1)).chance_skew is None


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=30), st.data())
def test_columns_are_as_brute_force(shapes, data):
    """Canvases, pixels and figures of the columns are those of the batches looked at one by one."""
    sizes = np.array(shapes)
    ends = data.draw(st.sets(st.integers(1, len(sizes)), max_size=8)) | {len(sizes)}
    counts = np.diff(sorted({0} | ends))
    images = np.array(data.draw(st.permutations(range(len(sizes)))))
    batches = Batches.tight(sizes, images, counts)
    computed = []
    for batch, part in zip(batches, np.split(images, np.cumsum(counts)[:-1])):
        assert batch.images.tolist() == part.tolist()
        assert batch.canvas == (max(sizes[part, 0]), max(sizes[part, 1]))
        computed.append(len(part) * batch.canvas.pixels)
    assert batches.computed_pixels.tolist() == computed
    found = figures_of("any", False, list(batches), sizes, LIMITS)
    assert found == figures_of("any", False, batches, sizes, LIMITS)
    assert found.num_over_budget == sum(pixels > LIMITS.budget_pixels for pixels in computed)
    assert found.predicted_s == pytest.approx((sum(computed) + 25 * len(computed)) / 100)


def test_batches_in_another_order():
    """Batches move whole, with their images and canvases."""
    batches = Batches.tight(SIZES, np.array([3, 1, 0, 2]), np.array([1, 2, 1])).in_order(np.array([1, 2, 0]))
    assert batches.images.tolist() == [1, 0, 2, 3]
    assert batches.counts.tolist() == [2, 1, 1]
    assert batches.canvases.tolist() == [[10, 10], [4, 4], [4, 5]]


@pytest.mark.parametrize("form", ["mixed", "b2b"])
def test_figures_of_our_plans_are_the_ledgers(form, random_sizes):
    """A plan's figures are those of its ledger: a step with several micro-batches is one step."""
    config = PlanConfig(steps=form, buckets=8, step_images=64)
    limits = Limits(budget_pixels=20_000, launch_pixels=300)
    plan, labels = plan_epoch(random_sizes, config, limits, 0), np.arange(200) % 5
    own = ledger(plan, config, limits, labels)
    found = figures_of(form, True, Batches.of_plan(plan), random_sizes, limits, labels)
    assert found.padding_overhead == pytest.approx(own.padding_overhead)
    assert found.num_micro_batches == own.num_micro_batches
    assert found.mean_fill == pytest.approx(own.mean_fill)
    assert found.class_skew == pytest.approx(own.step_class_skew)
    assert found.num_over_budget == 0
