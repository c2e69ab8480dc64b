"""Buckets by every method, and the steps that come from them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsquare.errors import PlanError
from unsquare.plan import Limits, PlanConfig, form_buckets, plan_epoch
from unsquare.plan.buckets.form import merge_small

BOUNDARIES = ["tree", "iterative", "exact"]


LIMITS = Limits(budget_pixels=40_000, launch_pixels=0)


def config(boundaries, buckets):
    """Settings of b2b."""
    return PlanConfig(steps="b2b", boundaries=boundaries, buckets=buckets)


def bound_pixels(buckets):
    """Computed pixels with every image padded to its bucket's bound."""
    return sum(len(bucket.images) * bucket.canvas.pixels for bucket in buckets.of_epoch(None))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=80),
    st.one_of(st.none(), st.integers(1, 20)),
    st.sampled_from(BOUNDARIES),
    st.booleans(),
)
def test_buckets_divide_the_images(sizes, most, boundaries, turns):
    """At most as many buckets as allowed, each image in one, each within the bound; turned ones too."""
    sizes = np.array(sizes)
    formed = form_buckets(sizes, config(boundaries, most), LIMITS, turns=turns)
    assert 1 <= len(formed) <= (most or 4096)
    assert sorted(set(formed.superbuckets)) == list(range(max(formed.superbuckets) + 1))
    for turned in (np.zeros(len(sizes), dtype=bool), np.arange(len(sizes)) % 2 == 1) if turns else (None,):
        shapes = sizes if turned is None else np.where(turned[:, None], sizes[:, ::-1], sizes)
        buckets = formed.of_epoch(turned)
        assert sorted(np.concatenate([bucket.images for bucket in buckets]).tolist()) == list(range(len(shapes)))
        for bucket in buckets:
            assert (shapes[bucket.images].max(axis=0) <= bucket.canvas).all()
            assert turns or tuple(shapes[bucket.images].max(axis=0)) == bucket.canvas


@pytest.mark.parametrize("boundaries", BOUNDARIES)
def test_more_buckets_pad_less(boundaries, random_sizes):
    """Padding to the bounds falls from 1 to 4, 16 and 64 buckets, to less than half of one bucket's."""
    limits = Limits(budget_pixels=4000, launch_pixels=0)
    pixels = [bound_pixels(form_buckets(random_sizes, config(boundaries, most), limits)) for most in (1, 4, 16, 64)]
    real = random_sizes.prod(axis=1).sum()
    assert pixels == sorted(pixels, reverse=True)
    assert pixels[-1] - real < (pixels[0] - real) / 2


@pytest.mark.parametrize("boundaries", BOUNDARIES)
def test_as_many_buckets_as_shapes_pad_nothing(boundaries):
    """Two distinct shapes and two buckets leave no padding."""
    sizes = np.array([(10, 20), (30, 40)] * 32)
    assert bound_pixels(form_buckets(sizes, config(boundaries, 2), LIMITS)) == sizes.prod(axis=1).sum()


@pytest.mark.parametrize("boundaries", BOUNDARIES)
def test_no_bucket_is_smaller_than_a_batch(boundaries, random_sizes):
    """Every bucket fills a micro-batch, or has four images, unless no other is within the budget with it."""
    formed = form_buckets(random_sizes, config(boundaries, 200), Limits(budget_pixels=40_000, launch_pixels=0))
    for bucket in formed.of_epoch(None):
        assert len(bucket.images) >= min(40_000 // bucket.canvas.pixels, 4)


def test_an_image_that_none_suits_stays_alone():
    """A tall and a wide image, whose joint canvas exceeds the budget, keep a bucket each."""
    shapes, counts = np.array([(2, 50), (50, 2)]), np.array([1, 1])
    groups = [(0, np.array([0])), (0, np.array([1]))]
    assert len(merge_small(shapes, counts, groups, Limits(budget_pixels=1000))) == 2
    (merged,) = merge_small(shapes, counts, groups, Limits(budget_pixels=5000))
    assert sorted(merged[1].tolist()) == [0, 1]


@pytest.mark.parametrize("boundaries", BOUNDARIES)
def test_half_a_buckets_orientations_fill_a_step(boundaries, random_sizes):
    """With turns every image counts twice, but lies in one way an epoch: a bucket holds twice as many as a step."""
    limits = Limits(budget_pixels=40_000, launch_pixels=0)
    formed = form_buckets(random_sizes, config(boundaries, 200), limits, turns=True)
    counts = np.bincount(formed.of_image.ravel(), minlength=len(formed))
    pixels = np.array([canvas.pixels for canvas in formed.canvases])
    assert (counts >= 2 * limits.enough(pixels)).all()


@pytest.mark.parametrize("boundaries", BOUNDARIES)
def test_a_step_comes_from_one_bucket_and_fills_it(boundaries, random_sizes):
    """All images of a step share a bucket, in as few near-equal steps as its bound canvas allows."""
    limits = Limits(budget_pixels=12_000, launch_pixels=0, world_size=2)
    plan = plan_epoch(random_sizes, config(boundaries, 8), limits, 0)
    for number, bucket in enumerate(plan.buckets):
        steps = [step for step in plan.steps if step.bucket == number]
        images = np.concatenate([batch.images for step in steps for batch in step.micro_batches])
        assert sorted(images.tolist()) == bucket.images.tolist()
        counts = [step.num_images for step in steps]
        assert len(counts) == -(-len(images) // (2 * (12_000 // bucket.canvas.pixels)))
        assert max(counts) - min(counts) <= 1


def test_steps_of_all_buckets_interleave(random_sizes):
    """Steps do not come bucket by bucket."""
    plan = plan_epoch(random_sizes, config("tree", 4), Limits(budget_pixels=6000), 0)
    order = [step.bucket for step in plan.steps]
    assert sum(a != b for a, b in pairwise(order)) > 2 * len(plan.buckets)


def test_buckets_do_not_depend_on_the_epoch_with_turns(random_sizes):
    """With turns an image goes to the bucket of its turned shape; the bounds of the buckets stay."""
    settings = config("tree", 6)
    formed = form_buckets(random_sizes, settings, LIMITS, turns=True)
    plans = [plan_epoch(random_sizes, settings, LIMITS, epoch, turns=True, buckets=formed) for epoch in (0, 1)]
    bounds = set(formed.canvases)
    assert all({bucket.canvas for bucket in plan.buckets} <= bounds for plan in plans)
    assert (plans[0].sizes != plans[1].sizes).any()
    for plan in plans:
        assert all((plan.sizes[bucket.images] <= bucket.canvas).all() for bucket in plan.buckets)


@pytest.mark.parametrize(("num_images", "turns"), [(150, False), (200, True)])
def test_buckets_of_other_images_are_refused(num_images, turns, random_sizes):
    """They would lose images without a word, or let a turned one exceed the budget."""
    formed = form_buckets(random_sizes[:num_images], config("tree", 4), LIMITS)
    with pytest.raises(PlanError, match=rf"is \(1, {num_images}\) instead of \({1 + turns}, 200\)"):
        plan_epoch(random_sizes, config("tree", 4), LIMITS, 0, turns=turns, buckets=formed)


@pytest.mark.parametrize("canvases", [None, 6])
@pytest.mark.parametrize("turns", [True, False])
def test_no_bucket_of_an_epoch_is_smaller_than_two_images_a_rank(turns, canvases):
    """Turns and weights leave a bucket fewer images in one epoch than in another; small ones join for that epoch."""
    sizes = np.random.default_rng(0).integers(10, 60, (300, 2))
    settings = PlanConfig(steps="b2b", canvases=canvases, multiple=2)
    limits = Limits(budget_pixels=60 * 60 * 2, launch_pixels=10, world_size=4)
    weights = None if turns else np.random.default_rng(1).random(300)
    for epoch in range(5):
        plan = plan_epoch(sizes, settings, limits, epoch, turns=turns, weights=weights)
        assert min(len(bucket.images) for bucket in plan.buckets) >= 8
        assert plan.images_per_step.sum() == 300
        for batch in plan.micro_batches:
            assert (plan.sizes[batch.images] <= batch.canvas).all()
            assert batch.computed_pixels <= limits.budget_pixels
        assert canvases is None or len({batch.canvas for batch in plan.micro_batches}) <= canvases


@pytest.mark.parametrize("num_images", [8, 9, 15, 17, 31, 40])
def test_images_that_do_not_go_round_leave_no_rank_idle(num_images):
    """Each image fills a rank: some ranks run two in a step, and no step has fewer images than ranks."""
    limits = Limits(budget_pixels=100, launch_pixels=10, world_size=8)
    plan = plan_epoch(np.full((num_images, 2), 10), PlanConfig(steps="b2b"), limits, 0)
    assert len(plan.steps) == num_images // 8
    rounds = [[len(rank) for rank in step.ranks] for step in plan.steps]
    assert min(map(min, rounds)) == 1
    assert sum(map(max, rounds)) == -(-num_images // 8)
    assert all(batch.computed_pixels == 100 for batch in plan.micro_batches)
    assert plan.images_per_step.sum() == sum(len(batch.images) for batch in plan.micro_batches) == num_images
