"""Running out of memory loses nothing: what fails is taken back, halved and run again, on one rank or on several."""

import errno
import gc
import weakref
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unsquare.capacity import guard
from unsquare.capacity import recovery as module
from unsquare.capacity.guard import halves
from unsquare.capacity.recovery import NO_CEILING, PATIENCE, Ceiling, Recovery, predict
from unsquare.data.loader import PaddedBatch
from unsquare.execution.cuts import checkpointed
from unsquare.execution.strategy import PLAIN
from unsquare.memory.meter import resident_bytes
from unsquare.memory.model import MemoryModel, TimeModel
from unsquare.network.classifier import Classifier
from unsquare.network.config import DeviceConfig, ModelConfig, OptimizerConfig
from unsquare.network.device import launch
from unsquare.network.engine import Engine, ShortageError
from unsquare.plan.config import below
from unsquare.runs.memory_profile import MemoryProfile, ProbeRange, RunLimits, StrategyProfile

FAILURE = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
PINNED = RunLimits(budget_pixels=1 << 30, launch_pixels=1)


def make_engine(backbone: str) -> Engine:
    """A network of three classes, in float32."""
    torch.manual_seed(0)
    fabric = launch(DeviceConfig(accelerator="cpu", precision="32-true"))
    return Engine(fabric, Classifier(ModelConfig(backbone=backbone), 3), OptimizerConfig())


@pytest.fixture(scope="module")
def engine():
    """A network whose norms do not cross images, so that halves add up to the whole."""
    return make_engine("test_convnext")


@pytest.fixture
def recovery(engine):
    """Recovery with pinned limits, and a clean network."""
    engine.forget_gradients()
    return Recovery(engine, PINNED, "tile")


def batch_of(sizes: list[tuple[int, int]]) -> PaddedBatch:
    """Noise in these sizes, padded with zeros."""
    rng = np.random.default_rng(1)
    canvas = np.max(sizes, axis=0)
    pixels = torch.zeros((len(sizes), 3, *canvas), dtype=torch.uint8)
    for number, (height, width) in enumerate(sizes):
        pixels[number, :, :height, :width] = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    return PaddedBatch(
        pixels=pixels.contiguous(memory_format=torch.channels_last),
        sizes=torch.tensor(sizes),
        labels=torch.arange(len(sizes)) % 3,
        images=np.arange(len(sizes)),
    )


BATCH = batch_of([(64, 80), (70, 72), (66, 90), (40, 96), (80, 64), (50, 50), (64, 64)])


def gradient(engine: Engine) -> torch.Tensor:
    """All parameters' gradients, one after another."""
    return torch.cat([p.grad.flatten() for p in engine.model.parameters() if p.grad is not None])


def fails_above(engine: Engine, monkeypatch, images: int, *, plain_only: bool = False) -> list[int]:
    """Let forward passes of more images fail; returns the images of all that were tried."""
    forward, tried = engine.model.forward, []

    def failing(pixels, sizes, strategy=PLAIN, folder=None):
        tried.append(len(pixels))
        if len(pixels) > images and (strategy.is_plain or not plain_only):
            raise RuntimeError(FAILURE)
        return forward(pixels, sizes, strategy, folder)

    monkeypatch.setattr(engine.model, "forward", failing)
    return tried


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=2, max_size=9))
def test_halves_hold_every_image_once_and_whole(sizes):
    """Cut in two, each image is in one half, with all its pixels, on the canvas that the half needs."""
    whole = batch_of(sizes)
    parts = halves(whole)
    assert [image for part in parts for image in part.images] == list(whole.images)
    for part in parts:
        assert part.pixels.shape[2:] == tuple(part.sizes.amax(dim=0).tolist())
        for row, image in enumerate(part.images):
            height, width = sizes[image]
            assert torch.equal(part.pixels[row, :, :height, :width], whole.pixels[image, :, :height, :width])


def test_halves_of_mixed_pictures_have_both_labels(engine, recovery, monkeypatch):
    """Loss and gradient of a mixed micro-batch are those of its halves, between those of either label alone."""
    others = (BATCH.labels + 1) % 3
    mixed = replace(BATCH, other_labels=others, label_weights=torch.full((7,), 0.25))
    alone = [engine.accumulate(replace(BATCH, labels=labels), 1 / 7)[0] for labels in (BATCH.labels, others)]
    engine.forget_gradients()
    whole = engine.accumulate(mixed, 1 / 7)
    wanted = gradient(engine)
    assert whole[0] == pytest.approx(0.25 * alone[0] + 0.75 * alone[1], rel=1e-5)
    assert abs(alone[0] - alone[1]) > 1e-3
    engine.forget_gradients()
    fails_above(engine, monkeypatch, 2)
    done = recovery.accumulate(mixed, 1 / 7)
    assert done.loss == pytest.approx(whole[0], rel=1e-5)
    torch.testing.assert_close(gradient(engine), wanted, rtol=1e-4, atol=1e-6)


def test_halved_until_it_fits_the_gradient_is_that_of_the_whole(engine, recovery, monkeypatch):
    """Parts of two images at the most give the loss, the hits and the gradient of the micro-batch that failed."""
    whole = engine.accumulate(BATCH, 1 / 7)
    wanted = gradient(engine)
    engine.forget_gradients()
    tried = fails_above(engine, monkeypatch, 2)
    done = recovery.accumulate(BATCH, 1 / 7)
    assert (round(done.loss, 4), done.score) == (round(whole[0], 4), whole[1])
    torch.testing.assert_close(gradient(engine), wanted, rtol=1e-4, atol=1e-6)
    assert max(tried) == 7
    assert done.shortages == sum(images > 2 for images in tried)
    assert done.ceiling_pixels < 7 * 80 * 96
    assert sum(images for images, *_ in done.measured) == 7
    assert "continuing with smaller micro-batches" in done.words


def test_parts_that_failed_are_let_go_at_once(engine, recovery, monkeypatch):
    """No error and frame keep each other, and with them a micro-batch, until the garbage collector comes."""
    parts = []

    def watched(batch):
        found = halves(batch)
        parts.extend(map(weakref.ref, found))
        return found

    monkeypatch.setattr(guard, "halves", watched)
    fails_above(engine, monkeypatch, 2)
    gc.collect()
    gc.disable()
    try:
        recovery.accumulate(BATCH, 1)
        predict(engine, BATCH, PINNED)
        assert parts
        assert not any(part() is not None for part in parts)
    finally:
        gc.enable()


def test_the_next_micro_batch_is_cut_beforehand(engine, recovery, monkeypatch):
    """What failed once is not tried again at that size within the step."""
    tried = fails_above(engine, monkeypatch, 2)
    done = recovery.accumulate(BATCH, 1)
    del tried[:]
    later = recovery.accumulate(BATCH, 1, done.ceiling_pixels)
    assert later.shortages == 0
    assert later.ceiling_pixels == done.ceiling_pixels
    assert max(tried) <= 2


def test_a_micro_batch_over_the_budget_makes_later_ones_smaller(engine, monkeypatch):
    """What real steps take corrects what the model promised: the next are as small as the excess asks for."""
    engine.forget_gradients()
    done = Recovery(engine, measured(1 << 40), "plain").accumulate(BATCH, 1)
    assert (done.ceiling_pixels, done.shortages, done.words) == (NO_CEILING, 0, "")
    pixels, peak = 7 * 80 * 96, done.measured[0][3]
    monkeypatch.setattr(guard.MemoryGuard, "_has", lambda *given: True)
    recovery = Recovery(engine, measured(peak // 2), "plain")
    monkeypatch.setattr(recovery._meter, "stop", lambda: peak)
    done = recovery.accumulate(BATCH, 1)
    assert done.ceiling_pixels == pytest.approx(pixels / 2, rel=1e-3)
    assert done.shortages == 1
    assert "continuing with smaller ones" in done.words
    later = recovery.accumulate(BATCH, 1, done.ceiling_pixels)
    assert max(images for images, *_ in later.measured) < 7


@pytest.mark.parametrize("reached", [0.1, 0.5, 0.9])
def test_failing_within_backward_leaves_no_trace(reached):
    """Gradients of earlier micro-batches and running statistics are bit for bit what they were."""
    engine = make_engine("test_resnet")
    engine.accumulate(BATCH, 1 / 7)
    gradients = [p.grad.clone() for p in engine.model.parameters()]
    buffers = [buffer.clone() for buffer in engine.model.buffers()]
    parameters = list(engine.model.parameters())

    def fail(_):
        raise RuntimeError(FAILURE)

    handle = parameters[int(reached * len(parameters))].register_hook(fail)
    with pytest.raises(ShortageError, match="ran out of memory"):
        engine.accumulate(BATCH, 1 / 7)
    handle.remove()
    assert all(torch.equal(p.grad, before) for p, before in zip(parameters, gradients))
    assert all(torch.equal(now, before) for now, before in zip(engine.model.buffers(), buffers))
    engine.accumulate(BATCH, 1 / 7)
    assert not torch.equal(parameters[0].grad, gradients[0])


def test_an_image_alone_takes_its_fallbacks(engine, recovery, monkeypatch):
    """Where the plain strategy does not hold one image, an unmeasured one is used, with the same gradient."""
    single = batch_of([(96, 128)])
    engine.accumulate(single, 1)
    wanted = gradient(engine)
    engine.forget_gradients()
    fails_above(engine, monkeypatch, 0, plain_only=True)
    done = recovery.accumulate(single, 1)
    torch.testing.assert_close(gradient(engine), wanted, rtol=1e-4, atol=1e-6)
    assert [name for *_, name in done.measured] == ["checkpoint"]


def test_what_fits_looks_for_no_other_way(engine, monkeypatch):
    """Ways for the direst need are found when they are needed: weighing a network takes seconds."""
    engine.forget_gradients()
    monkeypatch.setattr(module, "_unmeasured", lambda *_: pytest.fail("no other way was asked for"))
    for limits in (PINNED, measured(1 << 50)):
        Recovery(engine, limits, "tile").accumulate(batch_of([(64, 64)]), 1)


def test_an_image_that_fits_in_no_way_says_so(engine, recovery, monkeypatch):
    """The last fallback fails as well: an error that the loop saves the run at, and no gradient left."""
    fails_above(engine, monkeypatch, 0)
    with pytest.raises(ShortageError, match="--memory"):
        recovery.accumulate(batch_of([(64, 64)]), 1)
    assert all(p.grad is None for p in engine.model.parameters())


def test_other_errors_are_not_swallowed(engine, recovery, monkeypatch):
    """A defect is a defect however memory is."""

    def broken(*_):
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(engine.model, "forward", broken)
    with pytest.raises(RuntimeError, match="size mismatch"):
        recovery.accumulate(BATCH, 1)


@given(st.lists(st.booleans(), max_size=200), st.integers(1000, 10**9))
def test_the_ceiling_falls_at_once_and_rises_with_patience(troubles, planned):
    """A shortage sets it, enough quiet steps raise it by half, and at the size of planned micro-batches it is
    removed."""
    ceiling, quiet = Ceiling(), 0
    for trouble in troubles:
        before = ceiling
        lowest = max(1, min(before.pixels, planned) // 2)
        ceiling = before.after(lowest if trouble else before.pixels, int(trouble), planned)
        quiet = 0 if trouble else quiet + 1
        if trouble:
            assert ceiling.pixels == lowest
        elif before.pixels == NO_CEILING:
            assert ceiling == before
        elif ceiling.pixels != before.pixels:
            assert quiet % PATIENCE == 0
            assert ceiling.pixels > before.pixels or before.pixels == 1
        assert ceiling.pixels == NO_CEILING or ceiling.pixels < max(planned, 2)


def profile_of(budget: int, *strategies: StrategyProfile) -> MemoryProfile:
    """A profile as probes would give it: 1 kB a pixel on top of nothing, unless strategies are given."""
    plain = StrategyProfile(
        name="plain", strategy=PLAIN, memory=MemoryModel(0, 1000), time=TimeModel(0, 1e-6), probes=()
    )
    return MemoryProfile(
        budget_bytes=budget,
        reserved_bytes=0,
        heap="return",
        map_elements=16.0,
        probe_range=ProbeRange(10_000, 50_000, 100, None),
        measured=strategies or (plain,),
    )


def measured(budget: int) -> RunLimits:
    """Limits from such a profile, in training and in evaluation."""
    return RunLimits(training=profile_of(budget), evaluation=profile_of(budget))


def test_the_guard_stops_what_the_machine_no_longer_holds(engine, monkeypatch):
    """On a CPU a micro-batch whose growth is not free is not begun, but halved, before the kernel kills anything."""
    engine.forget_gradients()
    recovery = Recovery(engine, measured(1 << 50), "plain")
    tried = fails_above(engine, monkeypatch, 100)
    monkeypatch.setattr(guard, "free_host_bytes", lambda: 2 * 80 * 96 * 1000)
    done = recovery.accumulate(BATCH, 1)
    assert max(tried) <= 2
    assert sum(tried) == 7
    assert done.shortages


def test_the_guard_waits_for_an_image_alone_and_then_gives_up(engine, monkeypatch):
    """Others may give memory back; if they do not, the message says how much is missing."""
    engine.forget_gradients()
    recovery = Recovery(engine, measured(1 << 50), "plain")
    free = iter([10, 10, 10, *[1 << 40] * 9])
    monkeypatch.setattr(guard, "free_host_bytes", lambda: next(free))
    recovery.accumulate(batch_of([(64, 64)]), 1)
    monkeypatch.setattr(guard, "free_host_bytes", lambda: 10)
    monkeypatch.setattr(guard, "WAIT_S", 0.0)
    with pytest.raises(ShortageError, match=r"but only .* is free; free some"):
        recovery.accumulate(batch_of([(64, 64)]), 1)


def test_evaluation_is_halved_as_well(engine, monkeypatch):
    """Probabilities come in the order of the images, whatever parts they were computed in."""
    whole = engine.predict(BATCH)
    fails_above(engine, monkeypatch, 2)
    torch.testing.assert_close(predict(engine, BATCH, PINNED), whole, rtol=1e-4, atol=1e-6)
    fails_above(engine, monkeypatch, 0)
    with pytest.raises(ShortageError):
        predict(engine, BATCH, PINNED)


def test_the_guard_stops_evaluation_too(engine, monkeypatch):
    """Micro-batches that no longer fit are predicted in parts; a single image waits, then the message says what is
    missing."""
    whole = engine.predict(BATCH)
    tried = fails_above(engine, monkeypatch, 100)
    monkeypatch.setattr(guard, "free_host_bytes", lambda: 2 * 80 * 96 * 1000)
    found = predict(engine, BATCH, measured(1 << 50))
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-6)
    assert max(tried) <= 2
    assert sum(tried) == 7
    slept = []
    monkeypatch.setattr(guard.time, "sleep", slept.append)
    monkeypatch.setattr(guard, "free_host_bytes", lambda: 1 << 40 if len(slept) > 2 else 10)
    torch.testing.assert_close(predict(engine, BATCH, measured(1 << 50)), whole, rtol=1e-4, atol=1e-6)
    assert len(slept) == 3
    monkeypatch.setattr(guard, "free_host_bytes", lambda: 10)
    monkeypatch.setattr(guard, "WAIT_S", 0.0)
    with pytest.raises(ShortageError, match=r"but only .* is free; free some"):
        predict(engine, BATCH, measured(1 << 50))


def test_nobody_waits_for_a_budget_to_grow(engine, monkeypatch):
    """Where the budget itself is too small, others cannot help: the message says what does."""
    monkeypatch.setattr(guard.time, "sleep", lambda seconds: pytest.fail("waited"))
    with pytest.raises(ShortageError, match="of the budget is left; give more with --memory"):
        predict(engine, batch_of([(64, 64)]), measured(resident_bytes() + 1_000_000))


def test_evaluation_climbs_as_well(engine, monkeypatch):
    """An image alone that its strategy does not hold takes the next, and its answer is the same."""
    plain = profile_of(1 << 33)
    frugal = replace(plain.base, name="tile", memory=MemoryModel(0, 100))
    limits = RunLimits(training=plain, evaluation=profile_of(1 << 33, plain.base, frugal))
    tried = fails_above(engine, monkeypatch, 100)
    monkeypatch.setattr(guard, "free_host_bytes", lambda: 500 * 64 * 64)
    predict(engine, batch_of([(64, 64)]), limits)
    assert tried == [1]


def test_the_guard_climbs_where_a_higher_rung_has_room(engine, monkeypatch):
    """If free memory holds an image by another strategy, that is used at once, without waiting."""
    engine.forget_gradients()
    plain = profile_of(1 << 33).base
    engine.model.train()
    frugal = replace(
        plain, name="checkpoint", strategy=checkpointed(engine.model.chain().weigh()), memory=MemoryModel(0, 100)
    )
    profile = profile_of(1 << 33, plain, frugal)
    recovery = Recovery(engine, RunLimits(training=profile, evaluation=profile), "plain")
    monkeypatch.setattr(guard, "free_host_bytes", lambda: 500 * 64 * 64)
    monkeypatch.setattr(guard, "WAIT_S", 1e9)
    done = recovery.accumulate(batch_of([(64, 64)]), 1)
    assert [name for *_, name in done.measured] == ["checkpoint"]


def test_a_full_disk_is_a_shortage(engine, recovery, monkeypatch):
    """Where activations cannot be kept elsewhere, the micro-batch is taken back like any other."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(engine.model, "forward", full)
    with pytest.raises(ShortageError, match="No space left"):
        recovery.accumulate(batch_of([(64, 64)]), 1)


def test_a_plan_below_a_ceiling_still_holds_the_largest_image():
    """Micro-batches of several images stay below it; an image alone may take what it took before."""
    limits = measured(1 << 30).limits(1)
    lowered = below(limits, 1000)
    assert lowered.budget_pixels == 1000
    assert lowered.largest_pixels == limits.largest_pixels
    assert lowered.priced(np.array([5000])) == 5000


def test_a_trimmed_heap_grows_less(engine, monkeypatch):
    """Where the heap is kept, what a micro-batch may add to one just trimmed is less than the bound over many."""
    kept = replace(profile_of(1 << 50), heap="keep")
    growth = 2 * 1000 * 64 * 64
    monkeypatch.setattr(guard, "WAIT_S", 0.0)
    for free, fits in ((0.76 * growth, True), (0.74 * growth, False)):
        monkeypatch.setattr(guard, "free_host_bytes", lambda free=free: int(free))
        with nullcontext() if fits else pytest.raises(ShortageError):
            predict(engine, batch_of([(64, 64)]), RunLimits(training=kept, evaluation=kept))
