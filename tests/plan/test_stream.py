"""Steps from shapes as they arrive."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsquare.errors import PlanError
from unsquare.plan import ImageOverBudgetError, Limits, PlanConfig, plan_stream

shape_lists = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), max_size=120)


def listing(steps):
    """Steps as plain lists, to compare."""
    return [[[(batch.images.tolist(), tuple(batch.canvas)) for batch in rank] for rank in step.ranks] for step in steps]


@settings(max_examples=80, deadline=None)
@given(
    shape_lists,
    st.sampled_from(["mixed", "b2b"]),
    st.integers(1, 12),
    st.integers(12, 40),
    st.sampled_from([1, 2, 3, 8]),
    st.sampled_from([2500, 10_000]),
)
def test_every_stream_is_sound(shapes, form, step_images, buffer_images, world_size, budget):
    """Each arrival once, on its tight canvas, within the budget, no rank idle in vain; the same twice."""
    config = PlanConfig(steps=form, step_images=step_images)
    limits = Limits(budget_pixels=budget, launch_pixels=100, world_size=world_size)
    steps = list(plan_stream(shapes, config, limits, buffer_images=buffer_images))
    sizes = np.array(shapes).reshape(-1, 2)
    images = [i for step in steps for batch in step.micro_batches for i in batch.images.tolist()]
    assert sorted(images) == list(range(len(shapes)))
    for step in steps:
        assert sum(bool(rank) for rank in step.ranks) == min(world_size, step.num_images)
        assert form == "mixed" or step.num_images >= min(world_size, len(shapes), buffer_images // 2)
        assert form == "b2b" or step.num_images <= step_images
        for batch in step.micro_batches:
            assert batch.canvas == tuple(sizes[batch.images].max(axis=0))
            assert batch.computed_pixels <= budget
    assert listing(plan_stream(iter(shapes), config, limits, buffer_images=buffer_images)) == listing(steps)


@pytest.mark.parametrize("form", ["mixed", "b2b"])
def test_no_more_is_held_than_the_buffer(form, random_sizes):
    """When a step comes out, hardly more images have been asked for than the buffer holds beside those gone."""
    asked = 0

    def source():
        nonlocal asked
        for _ in range(10):
            for size in random_sizes:
                asked += 1
                yield tuple(size)

    gone = 0
    longest_wait = 0
    for step in plan_stream(source(), PlanConfig(steps=form, step_images=20), Limits(), buffer_images=100):
        assert asked - gone <= 100
        gone += step.num_images
        arrivals = np.concatenate([batch.images for batch in step.micro_batches])
        longest_wait = max(longest_wait, asked - arrivals.min())
    assert gone == 2000
    assert form == "mixed" or longest_wait <= 400


def test_a_bucket_stream_pads_little(mame_sizes):
    """With 4096 images held, MAMe pads at most 4 % in steps of one micro-batch each."""
    steps = list(plan_stream(map(tuple, mame_sizes), PlanConfig(steps="b2b"), Limits()))
    computed = sum(batch.computed_pixels for step in steps for batch in step.micro_batches)
    assert computed / mame_sizes.prod(axis=1).sum() <= 1.04


def test_another_epoch_streams_otherwise(random_sizes):
    """Seed and epoch change which images go together in a mixed stream."""
    config, limits = PlanConfig(step_images=10), Limits(budget_pixels=20_000)
    one, other = (listing(plan_stream(map(tuple, random_sizes), config, limits, epoch)) for epoch in (0, 1))
    assert one != other


def test_an_image_over_budget_is_named_by_its_arrival():
    """The error names the position in the stream, across buffers."""
    shapes = [(10, 10)] * 30 + [(40, 30)]
    with pytest.raises(ImageOverBudgetError, match="position 30 is 40 x 30"):
        list(plan_stream(shapes, PlanConfig(step_images=5), Limits(budget_pixels=1000), buffer_images=10))


@pytest.mark.parametrize("shape", [(3, 50, 50), (0, 5)])
def test_a_shape_that_is_none_is_refused(shape):
    """A channel in front, or a side of nothing, is named as it arrived."""
    with pytest.raises(PlanError, match=r"Shapes must be|Sides must be"):
        next(plan_stream([(5, 5), shape], PlanConfig(), Limits()))


def test_a_buffer_smaller_than_a_step_is_refused():
    """A step cannot be drawn from fewer images than it has."""
    with pytest.raises(PlanError, match="must hold a step of 256 images, but holds 100"):
        next(plan_stream([(3, 3)], PlanConfig(), Limits(), buffer_images=100))


@pytest.mark.parametrize("settings", [{"canvases": 4}, {"sampling": "balanced"}, {"min_scale": 0.5}])
def test_what_needs_the_whole_dataset_is_refused(settings):
    """Canvases and weights cannot be chosen from shapes that are yet to come, and are not ignored either."""
    with pytest.raises(PlanError, match="A stream cannot bound canvases, repeat images or scale them"):
        next(plan_stream([(3, 3)], PlanConfig(**settings), Limits()))
