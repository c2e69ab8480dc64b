"""Probes measure the real network, leave it as it was, and their predictions hold."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from unsquare.memory.cache import MeasurementCache
from unsquare.memory.heap import return_freed
from unsquare.memory.meter import PeakMeter, resident_bytes
from unsquare.memory.model import MemoryModel
from unsquare.network.classifier import Classifier, ModelConfig
from unsquare.network.device import DeviceConfig, launch
from unsquare.network.engine import Engine
from unsquare.network.optimizer import OptimizerConfig
from unsquare.shapes import Shape
from unsquare.training import bounds
from unsquare.training.bounds import Bounds, verify_largest
from unsquare.training.capacity import MAP_ELEMENTS
from unsquare.training.console import Console
from unsquare.training.measure import PROBE_SECONDS, Frame, Prober, measure_training
from unsquare.training.probing import Need, Probe, run_training

GIB = 1 << 30
NEED = Need(largest_image=1_000_000, usual_pixels=1_000_000, smallest_image=10_000, most_images=None)
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def engine():
    """A small network on the CPU, in float32, whose norms let it run piece by piece."""
    torch.manual_seed(0)
    fabric = launch(DeviceConfig(accelerator="cpu", precision="32-true"))
    return Engine(fabric, Classifier(ModelConfig(backbone="resnet10t", norm="frozen"), 3), OptimizerConfig())


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache with what the module's first probes showed."""
    return MeasurementCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def measured(engine, cache):
    """What probes of up to a megapixel show."""
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    frame = Frame(budget_bytes=8 * GIB, reserved_bytes=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROBE_SECONDS, "train", 120.0)  # as many probes on a slow machine as on a quick one
        return before, measure_training(Prober(engine, {}, cache), frame, NEED, NEED)


def test_probing_changes_nothing(engine, measured):
    """Weights and running statistics are bit for bit what they were, and the optimizer is fresh."""
    before, _ = measured
    for name, value in engine.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not engine.optimizer.state
    assert all(parameter.grad is None for parameter in engine.model.parameters())


def test_probes_grow_step_by_step_and_see_other_shapes(measured):
    """No probe is more than four times as large as one before it, they reach the need, and shapes and counts differ."""
    probes = measured[1].rungs[0].probes
    pixels = sorted({probe.pixels for probe in probes if probe.pixels & (probe.pixels - 1) == 0})
    assert all(a < b <= 4 * a for a, b in pairwise(pixels))
    assert pixels[-1] >= 1_000_000
    assert max(probe.width / probe.height for probe in probes) >= 16
    assert max(probe.height / probe.width for probe in probes) >= 16
    assert max(probe.images for probe in probes) > 32


@pytest.mark.parametrize(("images", "canvas"), [(6, Shape(760, 690)), (1, Shape(150, 9000)), (90, Shape(130, 120))])
def test_peaks_of_other_shapes_are_near_the_prediction(engine, measured, images, canvas):
    """Micro-batches that were not probed, up to three times beyond the probes, peak where the model says."""
    rung = measured[1].rungs[0]
    return_freed()
    meter = PeakMeter(engine.device)
    run_training(engine, images, canvas, rung.way)
    meter.start()
    run_training(engine, images, canvas, rung.way)
    growth = meter.stop() - resident_bytes()
    predicted = rung.memory.growth_bytes(images * canvas.pixels, images)
    assert 0.85 * predicted < growth < 1.1 * predicted
    engine.reset_optimizer()


def test_the_copy_that_puts_weights_back_is_not_counted(engine, tmp_path, monkeypatch):
    """Measuring holds the weights twice; training does not, and nothing of it stays in what is predicted."""
    counted = []

    def climb(*given, settled_bytes, **settings):
        counted.append(settled_bytes)
        return [Probe(1, 100, 100, settled_bytes + 1, 0.1)]

    monkeypatch.setattr("unsquare.training.measure.warm_up", lambda *given: GIB)
    monkeypatch.setattr("unsquare.training.measure.climb", climb)
    prober = Prober(engine, {}, MeasurementCache(tmp_path))
    measure_training(prober, Frame(budget_bytes=8 * GIB, reserved_bytes=0), NEED, NEED)
    weights = sum(value.nbytes for value in engine.model.state_dict().values())
    assert set(counted) == {GIB - weights}


def test_what_is_known_is_not_probed_again(engine, cache, measured, monkeypatch):
    """The same network on the same machine starts at once from the cache; another is measured."""
    frame = Frame(budget_bytes=8 * GIB, reserved_bytes=0)
    probed = []
    monkeypatch.setattr("unsquare.training.measure.climb", lambda *given, **settings: probed.append(given) or [])
    again = measure_training(Prober(engine, {}, cache), frame, NEED, NEED)
    assert [probe.seconds for probe in again.rungs[0].probes] == [p.seconds for p in measured[1].rungs[0].probes]
    assert not probed
    with pytest.raises(Exception, match="measurements above 0"):
        measure_training(Prober(engine, {"backbone": "another"}, cache), frame, NEED, NEED)
    assert probed


def test_more_memory_holds_more_pixels_and_reserves_hold_fewer(measured):
    """The bound grows with the budget, shrinks with what is kept back, and is less when training than evaluating."""
    capacity = measured[1]
    held = capacity.training.held[0]
    assert replace(capacity, budget_bytes=16 * GIB).training.held[0] > 1.9 * held
    assert replace(capacity, reserved_bytes=GIB).training.held[0] < held
    assert replace(capacity, heap="keep").training.held[0] < 0.6 * held
    assert capacity.evaluation.held[0] > held
    assert capacity.launch_pixels == 2 ** int(np.log2(capacity.launch_pixels))


@pytest.mark.parametrize("most_images", [None, 3, 40, 10_000])
@pytest.mark.parametrize("smallest", [100, 5_000, 1_000_000])
def test_thumbnails_are_counted_one_by_one(measured, most_images, smallest):
    """However many of the smallest images a micro-batch may have, what is held fits, and about no more would."""
    capacity = measured[1]
    memory = MemoryModel(fixed_bytes=1e9, bytes_per_pixel=300.0, bytes_per_image=2e5)
    rung = replace(capacity.rungs[0], memory=memory)
    need = replace(NEED, smallest_image=smallest, most_images=most_images)
    held = replace(capacity, rungs=(rung,), need=need).training.held[0]
    count = min(most_images or held, max(1, held // smallest))
    assert memory.peak_bytes(held, count) <= capacity.usable_bytes
    more = min(most_images or held, max(1, int(1.1 * held) // smallest))
    limited = held == int(MAP_ELEMENTS / capacity.map_elements)
    assert limited or memory.peak_bytes(int(1.1 * held), more) > 0.98 * capacity.usable_bytes


def test_no_map_has_more_elements_than_kernels_count(measured):
    """However much memory there is, the largest map stays below 2^31 elements."""
    capacity = replace(measured[1], budget_bytes=1 << 50)
    assert capacity.training.held[0] * capacity.map_elements <= MAP_ELEMENTS


def test_the_ladder_is_climbed_as_far_as_the_largest_image_needs(engine, cache):
    """Where the budget is small, rungs that take less are measured until the largest image fits one."""
    free = Frame(budget_bytes=8 * GIB, reserved_bytes=0)
    need = replace(NEED, largest_image=4_000_000)
    plain = measure_training(Prober(engine, {}, cache), free, NEED, NEED).rungs[0].memory
    budget = int((plain.fixed_bytes + 0.7 * plain.growth_bytes(4_000_000)) / 0.97)
    tight = Frame(budget_bytes=budget, reserved_bytes=0, highest="checkpoint")
    capacity = measure_training(Prober(engine, {}, cache), tight, need, NEED)
    ladder = capacity.training
    assert ladder.rungs[0].way.is_plain
    assert [rung.name for rung in ladder.rungs] == ["plain", "checkpoint"]
    assert ladder.held[0] < 4_000_000 <= ladder.largest_pixels
    assert ladder.rung(ladder.held[0]) is ladder.rungs[0]
    assert ladder.rung(4_000_000) is not ladder.rungs[0]
    assert ladder.limits(1, 1).ladder[0].price >= 1


def test_a_run_that_takes_more_than_foreseen_corrects_the_model(engine, measured):
    """A line that promised too little is lifted by the run of the largest micro-batch."""
    capacity = measured[1]
    modest = MemoryModel(fixed_bytes=float(resident_bytes() // 2), bytes_per_pixel=12.0)
    wrong = replace(capacity, rungs=(replace(capacity.rungs[0], memory=modest),))
    corrected = verify_largest(engine, wrong, 2, Shape(512, 512), QUIET).rungs[0]
    assert corrected.probes[-1].peak_bytes <= corrected.memory.peak_bytes(2 * 512 * 512, 2)
    assert corrected.memory.bytes_per_pixel > 12


def test_a_run_that_takes_less_changes_nothing(engine, measured, monkeypatch):
    """Kernels of other shapes are not there yet: a flatter line would promise room that later is not."""
    monkeypatch.setattr(bounds, "measure", lambda *given: Probe(2, 512, 512, 1 << 20, 1.0))
    assert verify_largest(engine, measured[1], 2, Shape(512, 512), QUIET) is measured[1]


def test_the_run_of_the_largest_micro_batch_counts_no_copy(engine, measured, monkeypatch):
    """The weights that are put back afterwards are no part of what training takes."""
    monkeypatch.setattr(bounds, "measure", lambda *given: Probe(2, 512, 512, 3 * GIB, 1.0))
    last = verify_largest(engine, measured[1], 2, Shape(512, 512), QUIET).rungs[0].probes[-1]
    assert last.peak_bytes == 3 * GIB - sum(value.nbytes for value in engine.model.state_dict().values())


@pytest.mark.parametrize("most_images", [None, 8])
@pytest.mark.parametrize("pixels", [1_000, 300_000, 5_000_000])
def test_the_least_budget_is_the_least(measured, pixels, most_images):
    """In the budget that is named an image fits, and in one a hundredth smaller it does not."""
    memory = MemoryModel(fixed_bytes=5e8, bytes_per_pixel=300, bytes_per_image=2e5)
    need = replace(NEED, most_images=most_images)
    rung = replace(measured[1].rungs[0], memory=memory)
    capacity = replace(measured[1], rungs=(rung,), heap="return", need=need, reserved_bytes=10_000_000)
    least = capacity.least_budget_bytes(pixels)
    assert replace(capacity, budget_bytes=least).training.largest_pixels >= pixels
    assert replace(capacity, budget_bytes=int(0.99 * least)).training.largest_pixels < pixels
    assert capacity.least_budget_bytes(1 << 40) is None  # a map of too many elements, whatever the memory


def test_bounds_survive_their_file(measured):
    """What is written to models.json gives the same limits back."""
    known = Bounds(capacity=measured[1])
    again = Bounds.from_dict(known.to_dict())
    assert again == known
    assert again.limits(3) == known.limits(3)
    pinned = Bounds(budget_pixels=5, launch_pixels=2)
    assert Bounds.from_dict(pinned.to_dict()) == pinned
