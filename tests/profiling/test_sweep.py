"""The profile finds what fits, survives its process's death, and takes the peak apart without a remainder."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from unsquare.capacity.probes import synthetic_batch
from unsquare.errors import RunError
from unsquare.execution.strategy import PLAIN
from unsquare.network.classifier import Classifier
from unsquare.network.config import DeviceConfig, ModelConfig, OptimizerConfig
from unsquare.network.device import launch
from unsquare.network.engine import Engine
from unsquare.profiling.attribution import KINDS, attribute
from unsquare.profiling.sweep import profile_network
from unsquare.profiling.worker import Subject, SubjectDied
from unsquare.shapes import Shape
from unsquare.training.config import TrainConfig

CANVAS = Shape(384, 512)
CONFIG = TrainConfig(
    model=ModelConfig(backbone="test_resnet"),
    device=DeviceConfig(accelerator="cpu", precision="32-true", memory="880MiB"),
)


@pytest.fixture(scope="module")
def profiled():
    """A small network doubled within what some seven images take, and what was said meanwhile."""
    said = []
    return profile_network(CONFIG, 3, CANVAS, "test_resnet", said.append), said


def test_the_batch_grows_until_it_fails_and_the_prediction_is_near(profiled):
    """Doubling ends at the limit, the largest batch that fits is found, and it is about the one predicted."""
    sweep = profiled[0].sweep
    images = [row.images for row in sweep.rows]
    assert images == sorted(images)
    assert images[0] == 1
    assert sweep.largest_images == images[-1] < sweep.failed_images
    assert sweep.failed_images - images[-1] <= max(1, images[-1] // 16) + 1
    assert sweep.failure
    assert max(row.peak_bytes for row in sweep.rows) <= sweep.limit_bytes == 880 << 20
    assert sweep.largest_images == pytest.approx(sweep.predicted_images, rel=0.35, abs=1)
    assert any("do not fit" in line for line in profiled[1]) or sweep.failed_images == 2 * images[-1]


def test_memory_is_watched_with_phases(profiled):
    """The trace has the phases of a step, and the canvas while it runs."""
    watch = profiled[0].watch
    assert {"forward", "backward"} <= set(watch.phase)
    assert CANVAS in set(zip(watch.height, watch.width))
    assert max(watch.resident_bytes) > 1.1 * min(watch.resident_bytes)


def test_kinds_add_up_to_the_peak(profiled):
    """Nothing of the peak is counted twice or left out, and the kinds are the documented ones."""
    found = profiled[0].attribution
    assert tuple(name for name, _ in found.kinds) == KINDS
    total = sum(number for _, number in found.kinds)
    assert total == pytest.approx(found.peak_bytes, rel=0.05)
    assert found.phase in ("forward", "backward")


def test_activations_are_those_that_autograd_saves():
    """What layers hold at the peak is what the graph keeps for backward, counted by hooks of PyTorch's own."""
    torch.manual_seed(0)
    fabric = launch(DeviceConfig(accelerator="cpu", precision="32-true"))
    engine = Engine(fabric, Classifier(ModelConfig(backbone="resnet10t"), 3), OptimizerConfig())
    found = attribute(engine, 2, CANVAS, PLAIN, "plain")
    saved: dict[int, int] = {}
    known = {parameter.untyped_storage().data_ptr() for parameter in engine.model.parameters()}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = synthetic_batch(2, CANVAS)
    with saved_tensors_hooks(note, lambda tensor: tensor):
        engine.model(batch.pixels, batch.sizes)
    kinds = dict(found.kinds)
    assert kinds["activations"] + kinds["gradients"] == pytest.approx(sum(saved.values()), rel=0.2)
    assert kinds["weights"] == pytest.approx(sum(4 * p.numel() for p in engine.model.parameters()), rel=0.01)
    assert kinds["optimizer"] == pytest.approx(2 * kinds["weights"], rel=0.01)
    stem = next(layer for layer in found.layers if layer.name == "backbone.conv1.0")
    assert stem.activations >= 4 * 24 * 2 * CANVAS.pixels // 4


def test_a_process_that_is_killed_is_named_and_survived(tmp_path):
    """The kernel's killer is met with a sentence."""
    subject = Subject(CONFIG, 3, CANVAS, tmp_path / "trace.parquet")
    try:
        assert subject.ask({"do": "steps", "images": 1})["peak_bytes"] > 0
        os.kill(subject._process.pid, signal.SIGKILL)
        with pytest.raises(SubjectDied, match="killed by SIGKILL"):
            subject.ask({"do": "steps", "images": 1})
    finally:
        subject.close()


def test_a_mistake_in_the_settings_is_for_the_user_to_fix(tmp_path):
    """What the process says of a wrong backbone is what the user reads."""
    wrong = replace(CONFIG, model=ModelConfig(backbone="resnt10t"))
    with pytest.raises(RunError, match="did you mean resnet10t"):
        Subject(wrong, 3, CANVAS, tmp_path / "trace.parquet")
