"""Probes measure the real network, leave it as it was, and their predictions hold."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from unsquare.memory.budget import resident_bytes
from unsquare.memory.profile import PeakMeter
from unsquare.plan.config import Limits
from unsquare.shapes import Shape
from unsquare.training import capacity as module
from unsquare.training.bounds import Bounds
from unsquare.training.capacity import Capacity, Need, measure_training, verify_largest
from unsquare.training.config import DeviceConfig, OptimizerConfig
from unsquare.training.engine import Engine, launch
from unsquare.training.model import Classifier, ModelConfig

GIB = 1 << 30


@pytest.fixture(scope="module")
def engine():
    """A small network on the CPU, in float32."""
    torch.manual_seed(0)
    fabric = launch(DeviceConfig(accelerator="cpu", precision="32-true"))
    return Engine(fabric, Classifier(ModelConfig(backbone="resnet10t"), 3), OptimizerConfig())


@pytest.fixture(scope="module")
def measured(engine):
    """What probes of up to a megapixel show."""
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    need = Need(largest_image=1_000_000, usual_pixels=1_000_000)
    capacity = measure_training(engine, budget_bytes=8 * GIB, reserved_bytes=0, need=need, checkpointing=False)
    return before, capacity


def test_probing_changes_nothing(engine, measured):
    """Weights and running statistics are bit for bit what they were, and the optimizer is fresh."""
    before, _ = measured
    for name, value in engine.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not engine.optimizer.state
    assert all(parameter.grad is None for parameter in engine.model.parameters())


def test_probes_grow_by_doubling(measured):
    """No probe is more than twice as large as one before it, and they reach the need."""
    pixels = [probe.pixels for probe in measured[1].probes]
    assert all(b == 2 * a for a, b in pairwise(pixels))
    assert pixels[-1] >= 1_000_000


def test_a_micro_batch_as_large_as_predicted_stays_below_the_prediction(engine, measured):
    """A batch of other shapes, three times beyond the probes, peaks within a tenth above what the line says."""
    capacity = measured[1]
    meter = PeakMeter(engine.device)
    meter.start()
    module._run_training(engine, 6, Shape(760, 690))
    peak = meter.stop()
    predicted = capacity.memory.peak_bytes(6 * 760 * 690)
    assert 0.5 * predicted < peak < 1.1 * predicted
    engine.reset_optimizer()


def test_more_memory_holds_more_pixels_and_reserves_hold_fewer(measured):
    """The bound grows with the budget, shrinks with what is kept back, and is less when training than evaluating."""
    from dataclasses import replace

    capacity = measured[1]
    assert replace(capacity, budget_bytes=16 * GIB).budget_pixels > 1.9 * capacity.budget_pixels
    assert replace(capacity, reserved_bytes=GIB).budget_pixels < capacity.budget_pixels
    assert capacity.evaluation_pixels > capacity.budget_pixels
    assert capacity.launch_pixels == 2 ** int(np.log2(capacity.launch_pixels))


def test_a_run_that_takes_more_than_foreseen_corrects_the_model(engine, measured):
    """A line that promised too little is lifted by the run of the largest micro-batch."""
    from dataclasses import replace

    from unsquare.memory.model import MemoryModel

    capacity = measured[1]
    modest = MemoryModel(fixed_bytes=float(resident_bytes() // 2), bytes_per_pixel=12.0)
    wrong = replace(capacity, memory=modest)
    corrected = verify_largest(engine, wrong, 2, Shape(512, 512))
    assert corrected.probes[-1].peak_bytes <= corrected.memory.peak_bytes(2 * 512 * 512)
    assert corrected.budget_pixels < wrong.budget_pixels


def test_bounds_survive_their_file(measured):
    """What is written to models.json gives the same limits back."""
    capacity = measured[1]
    bounds = Bounds(budget_pixels=5, evaluation_pixels=9, launch_pixels=2, checkpointing=True, capacity=capacity)
    again = Bounds.from_dict(bounds.to_dict() | {"budget_pixels": 5, "evaluation_pixels": 9, "launch_pixels": 2})
    speed = round(1 / capacity.time.s_per_pixel)
    assert again.limits(3) == Limits(budget_pixels=5, launch_pixels=2, world_size=3, pixels_per_s=speed)
    assert again.limits(1, evaluation=True).budget_pixels == 9
    assert isinstance(again.capacity, Capacity)
    assert again.capacity.probes == capacity.probes
