"""Steps that are planned when they are asked for."""

import numpy as np
import pytest

from unsquare.plan import Limits, PlanConfig, plan_epoch
from unsquare.plan.epoch import LazySteps


def test_only_what_is_asked_for_is_planned():
    """Lengths, slices and image counts plan nothing; a step asked for twice in a row is planned once."""
    made = []
    steps = LazySteps(np.array([3, 3, 2, 2]), lambda number: made.append(number) or number)
    later = steps[1:]
    assert (len(steps), len(later), later.num_images.tolist()) == (4, 3, [3, 2, 2])
    assert not made
    assert [later[0], later[0], steps[1], later[-1], steps[-4]] == [1, 1, 1, 3, 0]
    assert made == [1, 3, 0]
    assert list(steps[::-1]) == [3, 2, 1, 0]
    with pytest.raises(IndexError):
        steps[4]


@pytest.mark.parametrize("form", ["mixed", "b2b"])
def test_any_step_is_the_same_alone_as_in_order(form, random_sizes):
    """A run that resumes in mid-epoch plans the steps that it would have come to."""
    config, limits = PlanConfig(steps=form, step_images=16), Limits(budget_pixels=9000, world_size=2)
    whole = [step.ranks for step in plan_epoch(random_sizes, config, limits, 3).steps]
    for number in (len(whole) - 1, 2, 0):
        alone = plan_epoch(random_sizes, config, limits, 3).steps[number]
        for rank, expected in zip(alone.ranks, whole[number]):
            assert [batch.images.tolist() for batch in rank] == [batch.images.tolist() for batch in expected]


def test_counts_are_known_before_the_steps(random_sizes):
    """Images of each step, which learning rates follow, need no planning and are true."""
    for form in ("mixed", "b2b"):
        plan = plan_epoch(random_sizes, PlanConfig(steps=form, step_images=16), Limits(budget_pixels=9000), 0)
        assert plan.images_per_step.tolist() == [step.num_images for step in plan.steps]


def test_shapes_in_a_file_are_planned_as_those_in_memory(tmp_path, random_sizes):
    """A memory-mapped array of small integers gives the same plan; no product of its sides overflows."""
    shapes = (random_sizes * 1000).astype(np.uint16)
    np.save(tmp_path / "shapes.npy", shapes)
    mapped = np.load(tmp_path / "shapes.npy", mmap_mode="r")
    limits = Limits(budget_pixels=8_000_000_000)
    for form in ("mixed", "b2b"):
        config = PlanConfig(steps=form, step_images=50)
        plans = [plan_epoch(sizes, config, limits, 0) for sizes in (mapped, shapes.astype(np.int64))]
        listings = [[(b.images.tolist(), b.canvas) for b in plan.micro_batches] for plan in plans]
        assert listings[0] == listings[1]
