"""The table of an epoch, against its micro-batches one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.plan import Limits, PlanConfig, PlanTable, plan_epoch
from unsquare.plan.analysis.policies import figures_of
from unsquare.plan.analysis.table import batch_costs, epoch_cost, step_costs
from unsquare.plan.config import Fallback
from unsquare.plan.partition.ranks import rank_cost

SIZES = np.array([(10, 10), (10, 8), (4, 4), (4, 5)])
LIMITS = Limits(budget_pixels=190, launch_pixels=25, pixels_per_s=100)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=30), st.data())
def test_a_table_is_as_its_micro_batches_one_by_one(shapes, data):
    """Canvases, pixels and figures of the table are those of its micro-batches one by one."""
    sizes = np.array(shapes)
    ends = data.draw(st.sets(st.integers(1, len(sizes)), max_size=8)) | {len(sizes)}
    counts = np.diff(sorted({0} | ends))
    images = np.array(data.draw(st.permutations(range(len(sizes)))))
    table = PlanTable.of_runs(sizes, images, counts)
    computed = []
    for batch, part in zip(table, np.split(images, np.cumsum(counts)[:-1])):
        assert batch.images.tolist() == part.tolist()
        assert batch.canvas == (max(sizes[part, 0]), max(sizes[part, 1]))
        computed.append(len(part) * batch.canvas.pixels)
    assert table.computed_pixels.tolist() == computed
    assert table.real_pixels.sum() == sizes.prod(axis=1).sum()
    again = PlanTable.of_micro_batches(sizes, list(table))
    found = figures_of("any", False, again, LIMITS)
    assert found == figures_of("any", False, table, LIMITS)
    assert found.num_over_budget == sum(pixels > LIMITS.budget_pixels for pixels in computed)
    assert found.predicted_s == pytest.approx((sum(computed) + 25 * len(computed)) / 100)


def test_micro_batches_in_another_order():
    """Micro-batches move whole, with their images and canvases."""
    table = PlanTable.of_runs(SIZES, np.array([3, 1, 0, 2]), np.array([1, 2, 1])).in_order(np.array([1, 2, 0]))
    assert table.images.tolist() == [1, 0, 2, 3]
    assert table.count.tolist() == [2, 1, 1]
    assert table.canvas.tolist() == [[10, 10], [4, 4], [4, 5]]


@pytest.mark.parametrize("form", ["mixed", "b2b"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_a_plans_table_has_its_steps_ranks_and_buckets(form, world_size, random_sizes):
    """Row by row the micro-batches of the plan; the costs of ranks are those by which images were spread."""
    limits = Limits(
        budget_pixels=3000,
        launch_pixels=300,
        world_size=world_size,
        fallbacks=(Fallback(name="slow", most_pixels=3600, price=1.7),),
    )
    plan = plan_epoch(random_sizes, PlanConfig(steps=form, step_images=40, buckets=8), limits, 0)
    told = []
    table = PlanTable.of_plan(plan, lambda done, total: told.append((done, total)))
    assert told == [(number + 1, len(plan.steps)) for number in range(len(plan.steps))]
    rows = [
        (number, rank, -1 if step.bucket is None else step.bucket)
        for number, step in enumerate(plan.steps)
        for rank, batches in enumerate(step.ranks)
        for _ in batches
    ]
    assert list(zip(table.step.tolist(), table.rank.tolist(), table.bucket.tolist())) == rows
    for mine, theirs in zip(table, plan.micro_batches):
        assert mine.images.tolist() == theirs.images.tolist()
        assert mine.canvas == theirs.canvas
    costs = [[rank_cost(rank, limits) for rank in step.ranks] for step in plan.steps]
    busiest, mean = step_costs(table, limits)
    assert busiest.tolist() == [max(step) for step in costs]
    assert mean.tolist() == [sum(step) / world_size for step in costs]
    assert epoch_cost(table, limits) == batch_costs(table, limits).sum() == sum(map(sum, costs))


def test_a_rank_without_images_costs_nothing():
    """Two images on three ranks: the mean counts the idle rank, too."""
    limits = Limits(budget_pixels=1000, launch_pixels=10, world_size=3)
    plan = plan_epoch([(10, 10), (10, 8)], PlanConfig(step_images=2), limits, 0)
    busiest, mean = step_costs(PlanTable.of_plan(plan), limits)
    assert busiest.tolist() == [110]
    assert mean.tolist() == pytest.approx([200 / 3])
