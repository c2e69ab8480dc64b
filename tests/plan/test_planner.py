"""Properties that every plan has, whatever the shapes, the form of the steps and the number of ranks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsquare.errors import PlanError
from unsquare.plan import ImageOverBudgetError, Limits, PlanConfig, form_buckets, ledger, plan_epoch, plan_in_order
from unsquare.plan.analysis.table import PlanTable, step_costs

FORMS = [
    {"steps": "mixed"},
    {"steps": "b2b", "boundaries": "tree"},
    {"steps": "b2b", "boundaries": "iterative"},
    {"steps": "b2b", "boundaries": "exact"},
    {"steps": "mixed", "canvases": 5, "multiple": 2},
    {"steps": "b2b", "canvases": 5, "multiple": 2},
]
WORLD_SIZES = (1, 2, 3, 8)

shape_lists = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=60)


@st.composite
def datasets(draw):
    """Shapes, settings, and limits whose budget holds each of the shapes alone."""
    sizes = np.array(draw(shape_lists))
    config = PlanConfig(
        **draw(st.sampled_from(FORMS)),
        step_images=draw(st.integers(1, 40)),
        buckets=draw(st.integers(1, 12)),
        seed=draw(st.integers(0, 5)),
    )
    # Five canvases hold any shapes within a budget of 2500: that of 50 x 50 does.
    least = 2500 if config.canvases else 1
    limits = Limits(
        world_size=draw(st.sampled_from(WORLD_SIZES)),
        budget_pixels=max(int(sizes.prod(axis=1).max()) * draw(st.integers(1, 12)), least),
        launch_pixels=draw(st.sampled_from([0, 5, 100, 3000])),
    )
    return sizes, config, limits


def listing(plan):
    """The plan as plain lists, to compare."""
    return [
        [[(batch.images.tolist(), tuple(batch.canvas)) for batch in rank] for rank in step.ranks] for step in plan.steps
    ]


def sets_per_step(plan):
    """The set of images of each step."""
    return [frozenset(i for batch in step.micro_batches for i in batch.images.tolist()) for step in plan.steps]


def check_sound(plan, limits, config=None):
    """Each image once, canvases tight, no micro-batch over budget, no rank idle in vain."""
    seen = np.concatenate([batch.images for batch in plan.micro_batches])
    assert sorted(seen.tolist()) == list(range(len(plan.sizes)))
    for batch in plan.micro_batches:
        tight = plan.sizes[batch.images].max(axis=0)
        if config is not None and config.canvases:
            assert (tight <= batch.canvas).all()
            assert not any(side % config.multiple for side in batch.canvas)
        else:
            assert batch.canvas == tuple(tight)
        assert batch.computed_pixels == len(batch.images) * batch.canvas.pixels <= limits.budget_pixels
    for step in plan.steps:
        assert len(step.ranks) == limits.world_size
        assert step.num_images == sum(len(batch.images) for batch in step.micro_batches) > 0
        busy = sum(bool(rank) for rank in step.ranks)
        assert busy == min(limits.world_size, step.num_images)


@settings(max_examples=150, deadline=None)
@given(datasets(), st.integers(0, 3), st.booleans())
def test_every_plan_is_sound(dataset, epoch, turns):
    """Each image exactly once per epoch, none outside its canvas, no micro-batch over budget."""
    sizes, config, limits = dataset
    if turns:  # turned pictures have the same pixels, so that the budget still holds each
        plan = plan_epoch(sizes, config, limits, epoch, turns=True)
        lies = (plan.turns % 2 == 1)[:, None]
        assert (plan.sizes == np.where(lies, sizes[:, ::-1], sizes)).all()
    else:
        plan = plan_epoch(sizes, config, limits, epoch)
        assert not plan.turns.any()
        assert (plan.sizes == sizes).all()
    check_sound(plan, limits, config)
    assert not config.canvases or len({batch.canvas for batch in plan.micro_batches}) <= config.canvases


@settings(max_examples=60, deadline=None)
@given(datasets())
def test_evaluation_sees_each_image_once(dataset):
    """The pass in order is sound too, and its first step holds the costliest micro-batch."""
    sizes, _, limits = dataset
    plan = plan_in_order(sizes, limits)
    check_sound(plan, limits)
    costliest = max(batch.computed_pixels for batch in plan.micro_batches)
    if limits.world_size == 1:
        assert plan.steps[0].micro_batches[0].computed_pixels == costliest


@settings(max_examples=40, deadline=None)
@given(datasets(), st.integers(0, 3))
def test_a_plan_is_a_pure_function(dataset, epoch):
    """The same arguments give the same plan, with buckets formed before or on the way."""
    sizes, config, limits = dataset
    once = listing(plan_epoch(sizes, config, limits, epoch))
    assert once == listing(plan_epoch(sizes.copy(), config, limits, epoch))
    assert once == listing(plan_epoch(sizes, config, limits, epoch, buckets=form_buckets(sizes, config, limits)))


@settings(max_examples=40, deadline=None)
@given(shape_lists, st.integers(1, 30), st.integers(0, 3))
def test_the_world_size_does_not_change_mixed_steps(sizes, step_images, epoch):
    """The set of images in each step is the same on 1, 2, 3 and 8 ranks."""
    plans = [
        plan_epoch(sizes, PlanConfig(step_images=step_images), Limits(world_size=ranks, budget_pixels=10_000), epoch)
        for ranks in WORLD_SIZES
    ]
    assert all(sets_per_step(plan) == sets_per_step(plans[0]) for plan in plans)


@pytest.mark.parametrize("form", FORMS)
def test_another_epoch_or_seed_has_another_order(form, random_sizes):
    """Epoch and seed both change who goes with whom; buckets stay as they are."""
    config = PlanConfig(**form, step_images=16, buckets=4)
    limits = Limits(budget_pixels=20_000, launch_pixels=100)
    plans = [
        plan_epoch(random_sizes, config, limits, 0),
        plan_epoch(random_sizes, config, limits, 1),
        plan_epoch(random_sizes, replace(config, seed=1), limits, 0),
    ]
    assert len({str(sets_per_step(plan)) for plan in plans}) == 3
    assert len({str([bucket.images.tolist() for bucket in plan.buckets]) for plan in plans}) == 1


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(1, 80))
def test_mixed_steps_are_near_equal(num_images, step_images):
    """As few steps as the bound allows, which differ by at most one image."""
    plan = plan_epoch(np.ones((num_images, 2)), PlanConfig(step_images=step_images), Limits(), 0)
    counts = [step.num_images for step in plan.steps]
    assert len(counts) == -(-num_images // step_images)
    assert max(counts) <= step_images
    assert max(counts) - min(counts) <= 1


def test_mixed_steps_are_uniform():
    """Over many seeds each image is equally often in each step, large or small (chi-square, 33 degrees)."""
    sizes = [(2, 2)] * 4 + [(40, 3)] * 4 + [(9, 60)] * 4
    limits = Limits(budget_pixels=1000, launch_pixels=10)
    counts = np.zeros((12, 4))
    for seed in range(400):
        plan = plan_epoch(sizes, PlanConfig(step_images=3, seed=seed), limits, 0)
        for number, images in enumerate(sets_per_step(plan)):
            counts[sorted(images), number] += 1
    chi_square = ((counts - 100) ** 2 / 100).sum()
    assert 8 < chi_square < 75  # mean 33, standard deviation 8.1


def test_turns_are_uniform_and_belong_to_the_image():
    """Each turn comes as often, epochs differ, and more images leave the first ones' turns alone."""
    sizes = np.tile([[3, 5]], (4000, 1))
    config, limits = PlanConfig(step_images=4000), Limits(budget_pixels=100_000)
    first, other = (plan_epoch(sizes, config, limits, epoch, turns=True).turns for epoch in (0, 1))
    assert (np.abs(np.bincount(first, minlength=4) - 1000) < 140).all()  # 5 standard deviations
    assert 0.2 < (first == other).mean() < 0.3
    assert (plan_epoch(sizes[:10], config, limits, 0, turns=True).turns == first[:10]).all()


def test_an_image_over_budget_is_named():
    """The error gives position, shape and budget, and says what to do."""
    with pytest.raises(
        ImageOverBudgetError, match=r"at most 1,000 pixels alone, but .* position 1 is 30 x 40 = 1,200 pixels; raise"
    ) as error:
        plan_epoch([(10, 10), (30, 40)], PlanConfig(), Limits(budget_pixels=1000), 0)
    assert (error.value.position, error.value.shape) == (1, (30, 40))


@pytest.mark.parametrize("sizes", [[(3, 4, 5)], [3, 4], [(0, 4)], [("a", "b")]])
def test_shapes_are_checked(sizes):
    """What is no list of heights and widths above 0 is refused with what was received."""
    with pytest.raises(PlanError, match=r"Shapes must be|Sides must be"):
        plan_epoch(sizes, PlanConfig(), Limits(), 0)


def test_no_images_is_an_error():
    """There is no plan of nothing."""
    with pytest.raises(PlanError, match="no images"):
        plan_epoch(np.empty((0, 2)), PlanConfig(), Limits(), 0)


@pytest.mark.parametrize(
    ("form", "most"),
    [
        (FORMS[0], 0.03),
        (FORMS[1], 0.03),
        (FORMS[1] | {"buckets": 64}, 0.09),
        (FORMS[2], 0.04),
        (FORMS[3], 0.04),
        ({"steps": "mixed", "canvases": 64}, 0.105),
        ({"steps": "b2b", "canvases": 64}, 0.105),
    ],
    ids=["mixed", "tree", "tree of 64", "iterative", "exact", "mixed on 64 canvases", "b2b on 64 canvases"],
)
def test_mame_is_tight(form, most, mame_sizes):
    """On MAMe at 16 MP and 64 MP a micro-batch, padding stays near what was measured."""
    config, limits = PlanConfig(**form), Limits()
    plan = plan_epoch(mame_sizes, config, limits, 0)
    check_sound(plan, limits, config)
    found = ledger(plan, config, limits)
    assert found.padding_overhead <= most
    assert found.num_micro_batches <= 8000
    assert found.time_over_least <= (1.15 if config.canvases else 1.10)
    assert not config.canvases or found.num_canvases <= config.canvases
    assert len(plan.buckets) <= (config.buckets or 4096)


def test_eight_ranks_share_mame_within_five_percent(mame_sizes):
    """At 8 ranks the busiest rank of every step costs at most 5 % more than the mean of its step."""
    limits = Limits(world_size=8)
    busiest, mean = step_costs(PlanTable.of_plan(plan_epoch(mame_sizes, PlanConfig(), limits, 0)), limits)
    assert (busiest <= 1.05 * mean).all()
