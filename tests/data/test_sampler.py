"""The drop-in: which images each rank gets, what they weigh, and that a resume continues where training was."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import distributed
from torch.utils.data import DataLoader, Dataset

from unsquare import Limits, PadCollate, PlanConfig, StepLoader, StepSampler, plan_epoch
from unsquare.errors import ConfigError, PlanError, RunError

SIZES = np.array([(8 + 3 * (i % 5), 9 + 2 * (i % 7)) for i in range(30)])
MIXED = PlanConfig(step_images=8)
B2B = PlanConfig(steps="b2b", buckets=2)
LIMITS = Limits(budget_pixels=1500, launch_pixels=100)


class Pictures(Dataset):
    """Pictures of the given shapes, each filled with its position, which is its label too."""

    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        return torch.full((3, *self.sizes[i].tolist()), i, dtype=torch.uint8), i


def step_loader(config=MIXED, rank=0, world_size=1, sizes=SIZES, limits=LIMITS, **options):
    """Steps over made pictures, as one rank of several."""
    sampler = StepSampler(sizes, config, limits, rank=rank, world_size=world_size)
    return StepLoader(DataLoader(Pictures(sizes), batch_sampler=sampler, collate_fn=PadCollate(), **options))


def taken(step):
    """The positions of each micro-batch of a step, having taken them."""
    return [labels.tolist() for (_, _, labels), _ in step]


def through_json(state):
    """A state as it comes back from a file of plain values."""
    return json.loads(json.dumps(state))


@st.composite
def datasets(draw):
    """Shapes and settings, and a world size for which each step has work for all."""
    sizes = np.array(draw(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=4, max_size=40)))
    config = PlanConfig(
        steps=draw(st.sampled_from(["mixed", "b2b"])),
        step_images=draw(st.integers(4, 20)),
        buckets=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 3)),
    )
    world_size = draw(st.sampled_from([1, 2, 3]))
    budget = int(sizes.prod(axis=1).max()) * draw(st.integers(2, 10))
    limits = Limits(budget_pixels=budget, launch_pixels=draw(st.sampled_from([0, 50, 2000])), world_size=world_size)
    for epoch in (0, 1):
        assume(all(step.num_images >= world_size for step in plan_epoch(sizes, config, limits, epoch).steps))
    return sizes, config, limits


@settings(max_examples=60, deadline=None)
@given(datasets(), st.integers(0, 1))
def test_each_image_comes_once_over_all_ranks(dataset, epoch):
    """The ranks' lists are those of the plan: each image once, none empty, and as many as `len` says."""
    sizes, config, limits = dataset
    seen: Counter[int] = Counter()
    for rank in range(limits.world_size):
        sampler = StepSampler(sizes, config, limits, rank=rank, world_size=limits.world_size)
        sampler.set_epoch(epoch)
        lists = list(sampler)
        assert all(lists)
        assert len(lists) == len(sampler)
        seen.update(image for images in lists for image in images)
    assert seen == Counter(range(len(sizes)))


@settings(max_examples=40, deadline=None)
@given(datasets())
def test_ranks_agree_on_steps_and_weights_sum_to_one(dataset):
    """Each rank has the same number of steps, and a step's weights, averaged over ranks as DDP does, sum to 1."""
    sizes, config, limits = dataset
    ranks = [list(_steps(sizes, config, limits, rank)) for rank in range(limits.world_size)]
    assert len({len(steps) for steps in ranks}) == 1
    for parts in zip(*ranks):
        assert len({(part.number, part.num_images) for part in parts}) == 1
        weight = sum(part.weight * len(batch.images) for part in parts for batch in part.micro_batches)
        assert weight / limits.world_size == pytest.approx(1)


def _steps(sizes, config, limits, rank):
    """The steps of a rank, each taken to its end."""
    for step in step_loader(config, rank, limits.world_size, sizes, limits):
        list(step)
        yield step


@settings(max_examples=40, deadline=None)
@given(datasets(), st.integers(0, 100), st.sampled_from([1, 2, 3]))
def test_a_resume_goes_on_as_if_nothing_had_stopped(dataset, stop, other_world_size):
    """Stopped after any step of two epochs, the rest has the same sets of images; in mixed on other ranks too."""
    sizes, config, limits = dataset
    whole = _sets(sizes, config, limits, None, limits.world_size)
    stop %= len(whole)
    stopped = step_loader(config, 0, limits.world_size, sizes, limits)
    list(zip(range(stop), _through(stopped)))
    state = through_json(stopped.state_dict())
    world_size = other_world_size if config.steps == "mixed" else limits.world_size
    assume(all(len(images) >= world_size for images in whole))
    assert _sets(sizes, config, limits, state, world_size) == whole[stop:]


def _through(steps, epochs=2):
    """Step after step to the end of the epochs, each taken."""
    while steps.sampler.epoch < epochs:
        for step in steps:
            yield [image for images in taken(step) for image in images]


def _sets(sizes, config, limits, state, world_size):
    """The images of each step over all ranks, from a state to the end of two epochs."""
    limits = Limits(budget_pixels=limits.budget_pixels, launch_pixels=limits.launch_pixels)
    ranks = [step_loader(config, rank, world_size, sizes, limits) for rank in range(world_size)]
    for steps in ranks:
        if state is not None:
            steps.load_state_dict(state)
    return [sorted(itertools.chain(*parts)) for parts in zip(*map(_through, ranks), strict=True)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_workers_hold_in_advance_is_not_counted(num_workers):
    """A state saved while workers run ahead holds the steps that were trained, no more."""
    whole = list(_through(step_loader(), epochs=1))
    steps = step_loader(num_workers=num_workers)
    stopped = [image for _, image in zip(range(2), _through(steps))]
    resumed = step_loader(num_workers=num_workers)
    resumed.load_state_dict(steps.state_dict())
    assert resumed.sampler.steps_done == 2
    assert stopped + list(_through(resumed, epochs=1)) == whole


def test_a_step_counts_when_its_loop_has_ended():
    """Stopped between two micro-batches, the whole step comes again: its gradients were lost."""
    steps = step_loader()
    first, second = [], []
    for step in steps:
        if step.number == 1:
            second = [batch.images.tolist() for batch in step.micro_batches]
            next(iter(step))
            break
        first = taken(step)
    assert len(first) > 1
    assert steps.sampler.steps_done == 1
    resumed = step_loader()
    resumed.load_state_dict(steps.state_dict())
    assert taken(next(iter(resumed))) == second


def test_the_last_micro_batch_of_a_step_is_marked():
    """Each step says so of its last micro-batch alone, on each rank, and knows how many there are."""
    counts = []
    for rank in range(2):
        for step in step_loader(rank=rank, world_size=2):
            marks = [is_last for _, is_last in step]
            assert marks == [False] * (len(step) - 1) + [True]
            counts.append(len(marks))
    assert len(set(counts)) > 1


def test_batches_are_what_was_planned():
    """Pixels lie on the planned canvas, at the planned sizes."""
    for step in step_loader():
        for planned, ((pixels, sizes, labels), _) in zip(step.micro_batches, step, strict=True):
            assert labels.tolist() == planned.images.tolist()
            assert tuple(pixels.shape[2:]) == planned.canvas
            assert sizes.tolist() == SIZES[planned.images].tolist()


@pytest.mark.parametrize("config", [MIXED, B2B])
def test_workers_turn_pictures_as_planned(config):
    """The dataset finds each epoch's quarter turns, in workers that live on as well, and sizes are after them."""

    class Turned(Pictures):
        def __getitem__(self, i):
            picture, label = super().__getitem__(i)
            return torch.rot90(picture, int(sampler.quarter_turns[i]), (1, 2)), label

    sampler = StepSampler(SIZES, config, LIMITS, turns=True)
    workers = {"num_workers": 1, "persistent_workers": True}
    steps = StepLoader(DataLoader(Turned(SIZES), batch_sampler=sampler, collate_fn=PadCollate(), **workers))
    for _ in range(2):
        plan = sampler.plan
        assert set(plan.turns.tolist()) == {0, 1, 2, 3}
        for step in steps:
            for (_, sizes, labels), _ in step:
                assert sizes.tolist() == plan.sizes[labels.numpy()].tolist()


def test_epochs_follow_by_themselves_and_differ():
    """Without set_epoch, iterating again takes the next epoch; with it, any."""
    steps = step_loader()
    first, second = ([taken(step) for step in steps] for _ in range(2))
    assert first != second
    assert (steps.sampler.epoch, steps.sampler.steps_done) == (2, 0)
    steps.set_epoch(1)
    assert [taken(step) for step in steps] == second
    steps.set_epoch(2)
    taken(next(iter(steps)))
    steps.set_epoch(2)
    assert steps.sampler.steps_done == 1


def test_lengths_are_of_the_whole_epoch():
    """As loops that count items need it, before and after a resume."""
    steps = step_loader()
    lengths = len(steps), len(steps.sampler)
    taken(next(iter(steps)))
    assert (len(steps), len(steps.sampler)) == lengths == (4, len(list(StepSampler(SIZES, MIXED, LIMITS))))


def test_rank_and_world_size_follow_the_process_group(monkeypatch):
    """A sampler made and asked before the process group exists is one rank of it afterwards."""
    sampler = StepSampler(SIZES, MIXED, LIMITS)
    alone = list(sampler)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    assert list(sampler) == list(StepSampler(SIZES, MIXED, LIMITS, rank=1, world_size=2)) != alone


@pytest.mark.parametrize(
    ("config", "sizes", "limits", "what"),
    [
        (PlanConfig(step_images=9), SIZES, LIMITS, "step_images 8 -> 9"),
        (PlanConfig(step_images=8, seed=1), SIZES, LIMITS, "seed 0 -> 1"),
        (MIXED, SIZES[:-1], LIMITS, "num_images 30 -> 29, shapes"),
        (MIXED, SIZES[::-1], LIMITS, "changed: shapes"),
        (B2B, SIZES, LIMITS, "steps 'mixed' -> 'b2b'"),
    ],
)
def test_a_resume_with_other_settings_is_refused(config, sizes, limits, what):
    """What decides the order of images must be as it was; the error names what is not."""
    state = StepSampler(SIZES, MIXED, LIMITS).state_dict()
    with pytest.raises(RunError, match=what):
        StepSampler(sizes, config, limits).load_state_dict(state)


def test_other_weights_or_turns_are_refused():
    """They decide which images come, and how they lie."""
    state = StepSampler(SIZES, MIXED, LIMITS).state_dict()
    with pytest.raises(RunError, match="weights None -> '"):
        StepSampler(SIZES, MIXED, LIMITS, weights=np.arange(30)).load_state_dict(state)
    with pytest.raises(RunError, match="turns False -> True"):
        StepSampler(SIZES, MIXED, LIMITS, turns=True).load_state_dict(state)


def test_weighted_images_come_as_often_as_they_weigh():
    """Over ranks and steps together; images of weight 0 never come."""
    seen: Counter[int] = Counter()
    for rank in range(2):
        weights = [0.0] * 10 + [1.0] * 10 + [2.0] * 10
        seen.update(itertools.chain(*StepSampler(SIZES, MIXED, LIMITS, weights=weights, rank=rank, world_size=2)))
    assert seen == Counter([*range(10, 20), *range(20, 30), *range(20, 30)])


def test_what_does_not_decide_the_order_may_change():
    """In mixed, budget and launch may differ; in b2b they may not, nor may the world size."""
    other = Limits(budget_pixels=2000, launch_pixels=0)
    StepSampler(SIZES, MIXED, other).load_state_dict(StepSampler(SIZES, MIXED, LIMITS).state_dict())
    state = StepSampler(SIZES, B2B, LIMITS).state_dict()
    with pytest.raises(RunError, match=r"budget_pixels 1500 -> 2000, launch_pixels 100 -> 0; use those"):
        StepSampler(SIZES, B2B, other).load_state_dict(state)
    with pytest.raises(RunError, match="changed: world_size 1 -> 2"):
        StepSampler(SIZES, B2B, LIMITS, rank=0, world_size=2).load_state_dict(state)


@pytest.mark.parametrize("state", [{}, {"version": 99, "epoch": 0, "steps_done": 0, "settings": {}}, {"version": 1}])
def test_a_state_of_another_kind_is_refused(state):
    """The version is looked at before anything else."""
    with pytest.raises(RunError, match=r"must have version 1, epoch, .* set_epoch"):
        StepSampler(SIZES).load_state_dict(state)


def test_a_state_that_nobody_counted_is_refused():
    """Over the bare DataLoader, a state that would repeat what was trained is not given; the loop may count itself."""
    sampler = StepSampler(SIZES, MIXED, LIMITS)
    loader = DataLoader(Pictures(SIZES), batch_sampler=sampler, collate_fn=PadCollate())
    next(iter(loader))
    with pytest.raises(RunError, match=r"no step was reported; iterate unsquare.StepLoader.*step_done"):
        sampler.state_dict()
    sampler.step_done()
    assert sampler.state_dict()["steps_done"] == 1


@pytest.mark.parametrize(("config", "world_size"), [(PlanConfig(step_images=4), 4), (B2B, 31)])
def test_a_step_with_less_images_than_ranks_is_refused(config, world_size):
    """A rank without a micro-batch would leave the others waiting for its gradients; the smallest step decides."""
    with pytest.raises(PlanError, match=rf"has (3|30) for {world_size} ranks; use fewer ranks"):
        list(StepSampler(SIZES, config, LIMITS, rank=0, world_size=world_size))


@pytest.mark.parametrize("ranks", [(2, 2), (-1, 2), (0, None), (None, 2)])
def test_ranks_that_do_not_exist_are_refused(ranks):
    """Rank and world size are given together or not at all."""
    with pytest.raises(ConfigError, match="rank and world_size must be given together"):
        StepSampler(SIZES, rank=ranks[0], world_size=ranks[1])


def test_limits_for_other_ranks_are_refused():
    """A world size in the limits that is not the sampler's is a mistake, not a choice."""
    with pytest.raises(ConfigError, match="limits are for 4 ranks, but the sampler has 1; leave world_size out"):
        list(StepSampler(SIZES, MIXED, Limits(world_size=4)))


def test_steps_are_taken_whole_and_once():
    """A step that is left half, or iterated again, is an error rather than images lost."""
    steps = iter(step_loader())
    step = next(steps)
    next(iter(step))
    with pytest.raises(RunError, match="loaded once"):
        iter(step)
    with pytest.raises(RunError, match="step 0 was left with micro-batches in it"):
        next(steps)


def test_loaders_that_would_go_astray_are_refused():
    """Another batch sampler or dataset, batches out of order, or a loader that counts what its workers hold."""

    class Counting(DataLoader):
        def state_dict(self):
            return {}

    sampler = StepSampler(SIZES, MIXED, LIMITS)
    with pytest.raises(ConfigError, match="the batch sampler is BatchSampler"):
        StepLoader(DataLoader(Pictures(SIZES), batch_size=4))
    with pytest.raises(ConfigError, match="30 shapes for 29 items"):
        StepLoader(DataLoader(Pictures(SIZES[1:]), batch_sampler=sampler))
    with pytest.raises(ConfigError, match="in_order is False"):
        StepLoader(DataLoader(Pictures(SIZES), batch_sampler=sampler, in_order=False))
    with pytest.raises(ConfigError, match="Counting counts as well"):
        StepLoader(Counting(Pictures(SIZES), batch_sampler=sampler))


@pytest.mark.parametrize("steps", ["mixed", "b2b"])
def test_bounded_canvases_reach_the_batches(steps):
    """What is planned on few canvases is collated on the very same ones."""
    sizes = np.random.default_rng(0).integers(1, 50, (60, 2))
    config = PlanConfig(steps=steps, step_images=20, canvases=4, multiple=8)
    sampler = StepSampler(sizes, config, Limits(budget_pixels=20_000, launch_pixels=100))
    pad = PadCollate(canvases=sampler.canvases)
    assert len(sampler.canvases) <= 4
    for batch, planned in zip(sampler, sampler.plan.micro_batches):
        pixels, shown, _ = pad([(torch.zeros(1, *sizes[i]), 0) for i in batch])
        assert tuple(pixels.shape[2:]) == planned.canvas
        assert shown.tolist() == sizes[batch].tolist()
    assert StepSampler(sizes).canvases is None
