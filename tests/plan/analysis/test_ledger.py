"""The ledger, checked by hand on a small plan."""

import json

import numpy as np
import pytest

from unsquare.plan import Limits, PlanConfig, class_weights, ledger, plan_epoch, plan_in_order
from unsquare.plan.analysis.ledger import HEADING, class_skew

SIZES = np.array([(10, 10), (10, 8), (4, 4), (4, 4)])
CONFIG, LIMITS = PlanConfig(step_images=4), Limits(budget_pixels=400, launch_pixels=25)


def test_ledger_adds_up():
    """Two micro-batches: 10 x 10 and 10 x 8 together pad 20 pixels, the two 4 x 4 none."""
    found = ledger(plan_epoch(SIZES, CONFIG, LIMITS, 0), CONFIG, LIMITS)
    assert (found.num_images, found.num_steps, found.num_micro_batches, found.num_canvases) == (4, 1, 2, 2)
    assert (found.real_pixels, found.computed_pixels, found.max_micro_batch_pixels) == (212, 232, 200)
    assert found.padding_overhead == pytest.approx(20 / 212)
    assert found.mean_fill == pytest.approx((200 + 32) / 2 / 400)
    assert found.rank_imbalance == 1
    assert found.step_class_skew is None
    small, large = found.buckets
    assert (small.canvas, small.num_images, small.padding_overhead) == ((4, 4), 2, 0)
    assert (large.canvas, large.smallest_batch, large.largest_batch) == ((10, 10), 2, 2)
    assert large.padding_overhead == pytest.approx(20 / 180)


def test_class_skew_is_total_variation():
    """One class alone is at distance one half from half and half; unknown labels do not count."""
    skew = class_skew(np.array([0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, -1]), num_classes=2)
    assert skew.tolist() == [0.5, 0.5]


def test_ledger_sees_classes_in_buckets():
    """Where shape is class, each bucket is all one class and steps are more skewed than by chance."""
    sizes, labels = np.repeat([(10, 10), (4, 30)], 50, axis=0), np.repeat([0, 1], 50)
    config, limits = PlanConfig(steps="b2b", buckets=2), Limits(budget_pixels=2000, launch_pixels=10)
    found = ledger(plan_epoch(sizes, config, limits, 0), config, limits, labels)
    assert [row.class_skew for row in found.buckets] == [0.5, 0.5]
    assert found.step_class_skew == 0.5 > found.chance_class_skew


@pytest.mark.parametrize("form", ["mixed", "b2b"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_bucket_rows_add_up(form, world_size, random_sizes):
    """Rows cover all images and micro-batches, in tables as in JSON."""
    config = PlanConfig(steps=form, buckets=8, step_images=64)
    limits = Limits(budget_pixels=20_000, launch_pixels=300, world_size=world_size)
    labels = np.arange(200) % 5 - 1
    found = ledger(plan_epoch(random_sizes, config, limits, 0), config, limits, labels, num_classes=4)
    assert sum(row.num_images for row in found.buckets) == 200
    assert sum(row.num_micro_batches for row in found.buckets) == found.num_micro_batches
    assert found.bucket_rows()[0] == HEADING
    assert len(found.bucket_rows()) == len(found.buckets) + 1
    assert dict(found.rows())["images"] == "200"
    assert json.loads(json.dumps(found.to_dict()))["buckets"][0]["canvas"] == list(found.buckets[0].canvas)


def test_a_pass_in_order_has_a_ledger(random_sizes):
    """Evaluation's plan is listed like any other."""
    limits = Limits(budget_pixels=20_000, launch_pixels=300, world_size=2)
    found = ledger(plan_in_order(random_sizes, limits), PlanConfig(), limits, labels=np.full(200, -1))
    assert found.num_images == 200
    assert found.step_class_skew is None


@pytest.mark.parametrize("world_size", [1, 3])
def test_the_predicted_time_is_that_of_the_busiest_ranks(world_size, random_sizes):
    """Seconds are pixels and launches of each step's busiest rank over the speed, added up."""
    config = PlanConfig(step_images=40)
    limits = Limits(budget_pixels=9000, launch_pixels=300, pixels_per_s=2000, world_size=world_size)
    plan = plan_epoch(random_sizes, config, limits, 0)
    costs = [
        max(sum(len(batch.images) * batch.canvas.pixels + 300 for batch in rank) for rank in step.ranks)
        for step in plan.steps
    ]
    found = ledger(plan, config, limits)
    assert found.predicted_s == pytest.approx(sum(costs) / 2000)
    assert found.time_over_least == pytest.approx(found.predicted_s / found.least_s)


def test_many_buckets_are_shown_by_what_they_pad(random_sizes):
    """A printed table holds the sixteen that pad the most pixels, and says how many it leaves out."""
    config = PlanConfig(steps="b2b", buckets=40)
    limits = Limits(budget_pixels=9000, launch_pixels=1)
    found = ledger(plan_epoch(random_sizes, config, limits, 0), config, limits)
    assert len(found.buckets) > 20
    assert len(found.bucket_rows()) == 17
    assert found.num_hidden_rows == len(found.buckets) - 16


def test_chance_knows_of_weights():
    """Balanced mixed steps are uniform draws, so that their skew is that of chance, though classes are rare."""
    rng = np.random.default_rng(0)
    sizes, labels = np.full((4000, 2), 10), np.where(rng.random(4000) < 0.9, 0, rng.integers(1, 30, 4000))
    config, limits = PlanConfig(sampling="balanced"), Limits(budget_pixels=10_000)
    plan = plan_epoch(sizes, config, limits, 0, weights=class_weights(labels))
    found = ledger(plan, config, limits, labels)
    assert found.step_class_skew == pytest.approx(found.chance_class_skew, rel=0.1)
