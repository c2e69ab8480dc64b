"""Buckets and their boundaries."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsquare.plan import Limits, PlanConfig, form_buckets, plan_epoch
from unsquare.plan.boundaries import back_and_forth

BOUNDARIES = ["tree", "iterative"]


LIMITS = Limits(budget_pixels=40_000, launch_pixels=0)


def config(boundaries, buckets):
    """Settings of b2b."""
    return PlanConfig(steps="b2b", boundaries=boundaries, buckets=buckets)


def bound_pixels(buckets):
    """Computed pixels with every image padded to its bucket's bound."""
    return sum(len(bucket.images) * bucket.canvas.pixels for bucket in buckets)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=80),
    st.integers(1, 20),
    st.sampled_from(BOUNDARIES),
    st.booleans(),
)
def test_buckets_divide_the_images(sizes, most, boundaries, turns):
    """At most as many buckets as allowed, each image in one, each within the bound; turned ones too."""
    sizes = np.array(sizes)
    buckets = form_buckets(sizes, config(boundaries, most), LIMITS, turns=turns)
    shapes = np.concatenate([sizes, sizes[:, ::-1]]) if turns else sizes
    assert 1 <= len(buckets) <= most
    assert sorted(np.concatenate([bucket.images for bucket in buckets]).tolist()) == list(range(len(shapes)))
    for bucket in buckets:
        assert tuple(shapes[bucket.images].max(axis=0)) == bucket.canvas
    superbuckets = [bucket.superbucket for bucket in buckets]
    assert sorted(set(superbuckets)) == list(range(max(superbuckets) + 1))


@pytest.mark.parametrize("boundaries", BOUNDARIES)
def test_more_buckets_pad_less(boundaries, random_sizes):
    """Padding to the bounds falls from 1 to 4, 16 and 64 buckets, to less than half of one bucket's."""
    pixels = [bound_pixels(form_buckets(random_sizes, config(boundaries, most), LIMITS)) for most in (1, 4, 16, 64)]
    real = random_sizes.prod(axis=1).sum()
    assert pixels == sorted(pixels, reverse=True)
    assert pixels[-1] - real < (pixels[0] - real) / 2


@pytest.mark.parametrize("boundaries", BOUNDARIES)
def test_as_many_buckets_as_shapes_pad_nothing(boundaries):
    """Two distinct shapes and two buckets leave no padding."""
    sizes = np.array([(10, 20), (30, 40)] * 8)
    assert bound_pixels(form_buckets(sizes, config(boundaries, 2), LIMITS)) == sizes.prod(axis=1).sum()


def test_back_and_forth_beats_quantiles():
    """Boundaries move from equal counts to where the shapes jump, and the cost returned is the true one."""
    lengths = np.array([1] * 90 + [10] * 6 + [100] * 4)
    shapes = np.stack([lengths, lengths], axis=1)
    ends, total = back_and_forth(shapes, 3, Limits(budget_pixels=10**6, launch_pixels=0))
    assert ends.tolist() == [90, 96, 100]
    assert total == 90 + 600 + 40_000


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
    bounds = {bucket.canvas for bucket in formed}
    assert all({bucket.canvas for bucket in plan.buckets} <= bounds for plan in plans)
    assert (plans[0].sizes != plans[1].sizes).any()
    for plan in plans:
        assert all((plan.sizes[bucket.images] <= bucket.canvas).all() for bucket in plan.buckets)
