"""Probes measure the real network, leave it as it was, and their predictions hold."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from unsquare.capacity import limits as module
from unsquare.capacity.fallbacks import PROBE_SECONDS, Prober, Workload, measure_profiles
from unsquare.capacity.limits import verify_largest
from unsquare.capacity.probes import train_probe
from unsquare.data.gate import DECODE_BYTES
from unsquare.index.table import ShapeIndex
from unsquare.index.text import empty_strings, strings
from unsquare.memory.cache import MeasurementCache
from unsquare.memory.heap import return_freed
from unsquare.memory.meter import PeakMeter, resident_bytes
from unsquare.memory.model import MemoryModel
from unsquare.network.classifier import Classifier
from unsquare.network.config import DeviceConfig, ModelConfig, OptimizerConfig
from unsquare.network.device import launch
from unsquare.network.engine import Engine
from unsquare.runs.memory_profile import MAP_ELEMENTS, Probe, ProbeRange, RunLimits
from unsquare.shapes import Geometry, Shape

GIB = 1 << 30
NEED = ProbeRange(largest_image=1_000_000, usual_pixels=1_000_000, smallest_image=10_000, most_images=None)
WORKLOAD = Workload(training=NEED, evaluation=NEED, budget_bytes=8 * GIB)


def quiet(text: str) -> None:
    """Says nothing."""


@pytest.fixture(scope="module")
def engine():
    """A small network on the CPU, in float32, whose norms let it be tiled."""
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROBE_SECONDS, "train", 120.0)  # as many probes on a slow machine as on a quick one
        return before, *measure_profiles(Prober(engine, {}, cache), WORKLOAD)


def test_probing_changes_nothing(engine, measured):
    """Weights and running statistics are bit for bit what they were, and the optimizer is fresh."""
    before, *_ = measured
    for name, value in engine.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not engine.optimizer.state
    assert all(parameter.grad is None for parameter in engine.model.parameters())


def test_probes_grow_step_by_step_and_see_other_shapes(measured):
    """No probe is more than four times as large as one before it, they cover what is needed, and shapes and counts
    differ."""
    probes = measured[1].base.probes
    pixels = sorted({probe.pixels for probe in probes if probe.pixels & (probe.pixels - 1) == 0})
    assert all(a < b <= 4 * a for a, b in pairwise(pixels))
    assert pixels[-1] >= 1_000_000
    assert max(probe.width / probe.height for probe in probes) >= 16
    assert max(probe.height / probe.width for probe in probes) >= 16
    assert max(probe.images for probe in probes) > 32


@pytest.mark.parametrize(("images", "canvas"), [(6, Shape(760, 690)), (1, Shape(150, 9000)), (90, Shape(130, 120))])
def test_peaks_of_other_shapes_are_near_the_prediction(engine, measured, images, canvas):
    """Micro-batches that were not probed, up to three times beyond the probes, peak where the model says."""
    base = measured[1].base
    return_freed()
    meter = PeakMeter(engine.device)
    train_probe(engine, images, canvas, base.strategy)
    meter.start()
    train_probe(engine, images, canvas, base.strategy)
    growth = meter.stop() - resident_bytes()
    predicted = base.memory.growth_bytes(images * canvas.pixels, images)
    assert 0.85 * predicted < growth < 1.1 * predicted
    engine.reset_optimizer()


def test_the_copy_that_puts_weights_back_is_not_counted(engine, tmp_path, monkeypatch):
    """Measuring holds the weights twice; training does not, and nothing of it stays in what is predicted."""
    counted = []

    def climb(*given, settled_bytes, **settings):
        counted.append(settled_bytes)
        return [Probe(1, 100, 100, settled_bytes + 1, 0.1)]

    monkeypatch.setattr("unsquare.capacity.fallbacks.warm_up", lambda *given: GIB)
    monkeypatch.setattr("unsquare.capacity.fallbacks.climb", climb)
    prober = Prober(engine, {}, MeasurementCache(tmp_path))
    measure_profiles(prober, WORKLOAD)
    weights = sum(value.nbytes for value in engine.model.state_dict().values())
    assert set(counted) == {GIB - weights}


def test_what_is_known_is_not_probed_again(engine, cache, measured, monkeypatch):
    """The same network on the same machine starts at once from the cache; another is measured."""
    probed = []
    monkeypatch.setattr("unsquare.capacity.fallbacks.climb", lambda *given, **settings: probed.append(given) or [])
    again, _ = measure_profiles(Prober(engine, {}, cache), WORKLOAD)
    assert [probe.seconds for probe in again.base.probes] == [p.seconds for p in measured[1].base.probes]
    assert not probed
    with pytest.raises(Exception, match="measurements above 0"):
        measure_profiles(Prober(engine, {"backbone": "another"}, cache), WORKLOAD)
    assert probed


def test_more_memory_holds_more_pixels_and_reserves_hold_fewer(measured):
    """The bound grows with the budget, shrinks with what is kept back, and is less when training than evaluating."""
    _, training, evaluation = measured
    most = training.most_pixels[0]
    assert replace(training, budget_bytes=16 * GIB).most_pixels[0] > 1.9 * most
    assert replace(training, reserved_bytes=GIB).most_pixels[0] < most
    assert replace(training, heap="keep").most_pixels[0] < 0.6 * most
    assert evaluation.most_pixels[0] > most
    assert training.launch_pixels == 2 ** int(np.log2(training.launch_pixels))


@pytest.mark.parametrize("most_images", [None, 3, 40, 10_000])
@pytest.mark.parametrize("smallest", [100, 5_000, 1_000_000])
def test_thumbnails_are_counted_one_by_one(measured, most_images, smallest):
    """However many of the smallest images a micro-batch may have, what is held fits, and about no more would."""
    memory = MemoryModel(fixed_bytes=1e9, bytes_per_pixel=300.0, bytes_per_image=2e5)
    need = replace(NEED, smallest_image=smallest, most_images=most_images)
    profile = replace(measured[1], measured=(replace(measured[1].base, memory=memory),), probe_range=need)
    most = profile.largest_pixels
    count = min(most_images or most, max(1, most // smallest))
    assert memory.peak_bytes(most, count) <= profile.usable_bytes
    more = min(most_images or most, max(1, int(1.1 * most) // smallest))
    limited = most == int(MAP_ELEMENTS / profile.map_elements)
    assert limited or memory.peak_bytes(int(1.1 * most), more) > 0.98 * profile.usable_bytes


def test_no_map_has_more_elements_than_kernels_count(measured):
    """However much memory there is, the largest map stays below 2^31 elements."""
    profile = replace(measured[1], budget_bytes=1 << 50)
    assert profile.most_pixels[0] * profile.map_elements <= MAP_ELEMENTS


def test_fallbacks_are_measured_until_the_largest_image_fits(engine, cache):
    """Where the budget is small, strategies that take less are measured until one holds the largest image."""
    plain = measure_profiles(Prober(engine, {}, cache), WORKLOAD)[0].base.memory
    budget = int((plain.fixed_bytes + 0.7 * plain.growth_bytes(4_000_000)) / 0.97)
    tight = replace(WORKLOAD, training=replace(NEED, largest_image=4_000_000), budget_bytes=budget, most="checkpoint")
    profile, _ = measure_profiles(Prober(engine, {}, cache), tight)
    assert profile.strategies[0].strategy.is_plain
    assert [each.name for each in profile.strategies] == ["plain", "checkpoint"]
    assert profile.most_pixels[0] < 4_000_000 <= profile.largest_pixels
    assert profile.strategy_for(profile.most_pixels[0]) is profile.base
    assert profile.strategy_for(4_000_000) is not profile.base
    times = [each.time.s_per_pixel for each in profile.strategies]
    assert profile.limits(1, 1).fallbacks[0].price == pytest.approx(times[1] / times[0], abs=0.0251)


def test_a_run_that_takes_more_than_predicted_corrects_the_model(engine, measured):
    """A line that promised too little is lifted by the run of the largest micro-batch."""
    modest = MemoryModel(fixed_bytes=float(resident_bytes() // 2), bytes_per_pixel=12.0)
    wrong = replace(measured[1], measured=(replace(measured[1].base, memory=modest),))
    corrected = verify_largest(engine, wrong, 2, Shape(512, 512), quiet).base
    assert corrected.probes[-1].peak_bytes <= corrected.memory.peak_bytes(2 * 512 * 512, 2)
    assert corrected.memory.bytes_per_pixel > 12


def test_a_run_that_takes_less_changes_nothing(engine, measured, monkeypatch):
    """Kernels of other shapes are not there yet: a flatter line would promise memory that later is not free."""
    monkeypatch.setattr(module, "measure", lambda *given: Probe(2, 512, 512, 1 << 20, 1.0))
    assert verify_largest(engine, measured[1], 2, Shape(512, 512), quiet) is measured[1]


def test_the_run_of_the_largest_micro_batch_counts_no_copy(engine, measured, monkeypatch):
    """The weights that are put back afterwards are no part of what training takes."""
    monkeypatch.setattr(module, "measure", lambda *given: Probe(2, 512, 512, 3 * GIB, 1.0))
    last = verify_largest(engine, measured[1], 2, Shape(512, 512), quiet).base.probes[-1]
    assert last.peak_bytes == 3 * GIB - sum(value.nbytes for value in engine.model.state_dict().values())


@pytest.mark.parametrize("most_images", [None, 8])
@pytest.mark.parametrize("pixels", [1_000, 300_000, 5_000_000])
def test_the_least_budget_is_the_least(measured, pixels, most_images):
    """In the budget that is named an image fits, and in one a hundredth smaller it does not."""
    memory = MemoryModel(fixed_bytes=5e8, bytes_per_pixel=300, bytes_per_image=2e5)
    need = replace(NEED, most_images=most_images)
    base = replace(measured[1].base, memory=memory)
    profile = replace(measured[1], measured=(base,), heap="return", probe_range=need, reserved_bytes=10_000_000)
    least = profile.least_budget_bytes(pixels)
    assert replace(profile, budget_bytes=least).largest_pixels >= pixels
    assert replace(profile, budget_bytes=int(0.99 * least)).largest_pixels < pixels
    assert profile.least_budget_bytes(1 << 40) is None  # a map of too many elements, whatever the memory


def test_limits_survive_their_file(measured):
    """What is written to models.json gives the same limits back."""
    known = RunLimits(training=measured[1], evaluation=measured[2])
    again = RunLimits.from_dict(known.to_dict())
    assert again == known
    assert again.limits(3) == known.limits(3)
    pinned = RunLimits(budget_pixels=5, launch_pixels=2)
    assert RunLimits.from_dict(pinned.to_dict()) == pinned


@pytest.mark.parametrize("training", [NEED, None])
def test_training_and_prediction_reserve_the_same_for_decoding(engine, training):
    """The decoders' bytes and those of the micro-batch that is read ahead, whoever runs the network."""
    sizes = np.array([[1000, 2000], [30, 40]])
    index = ShapeIndex(
        root="",
        classes=("a",),
        keys=strings(["0", "1"]),
        sizes=sizes,
        labels=np.zeros(2, dtype=np.int32),
        splits=empty_strings(2),
        num_bytes=np.zeros(2, dtype=np.int64),
        modified_ns=np.zeros(2, dtype=np.int64),
    )
    device = DeviceConfig(accelerator="cpu", memory="1GiB")
    workload = module.pictures_workload(engine, device, index, Geometry(), training=training, step_images=16)
    assert workload.reserved_bytes == DECODE_BYTES + 3 * 1000 * 2000
    assert workload.evaluation == ProbeRange.of(sizes, 16)
