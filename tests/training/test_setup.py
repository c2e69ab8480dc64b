"""What is written before the first step."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from unsquare.exact.layers.norm import FrozenBatchNorm2d
from unsquare.execution.strategy import PLAIN, Segment, Strategy
from unsquare.index.table import ShapeIndex
from unsquare.index.text import empty_strings, strings
from unsquare.memory.model import MemoryModel, TimeModel
from unsquare.network.config import DeviceConfig, ModelConfig
from unsquare.network.norms import freeze_batch_norms
from unsquare.plan import Limits, plan_epoch
from unsquare.runs.folder import RunFolder
from unsquare.runs.memory_profile import MemoryProfile, ProbeRange, RunLimits, StrategyProfile
from unsquare.training import plan_file, setup
from unsquare.training.config import TrainConfig
from unsquare.training.console import Console


def test_of_a_very_long_epoch_the_first_steps_are_written(tmp_path, monkeypatch, capsys):
    """Training does not wait for an epoch to be planned: beyond a bound, figures are those of the first steps."""
    monkeypatch.setattr(plan_file, "WRITTEN_STEPS", 3)
    sizes = np.random.default_rng(0).integers(10, 60, (400, 2))
    index = ShapeIndex(
        root="",
        classes=("a", "b"),
        keys=strings([f"{i:03}" for i in range(400)]),
        sizes=sizes,
        labels=(np.arange(400) % 2).astype(np.int32),
        splits=empty_strings(400),
        num_bytes=np.zeros(400, dtype=np.int64),
        modified_ns=np.zeros(400, dtype=np.int64),
    )
    config, limits, run = TrainConfig(), Limits(budget_pixels=20_000, launch_pixels=500), RunFolder(tmp_path)
    plan = plan_epoch(sizes, config.plan, limits, 0)
    norm = nn.BatchNorm2d(3)
    plan_file.write_plan(run, config, plan, limits, index, model=norm, remarks=["first"], say=Console().say)
    written = json.loads(run.plan.read_text())
    first = [batch for step in list(plan.steps)[:3] for batch in step.micro_batches]
    assert written["steps_of_epoch"] == len(plan.steps) == 16
    assert written["ledger"]["num_steps"] == 3
    assert written["micro_batches"] == [[len(batch.images), *batch.canvas] for batch in first]
    said = " ".join(capsys.readouterr().err.split())
    assert "16 steps, the first 3 of which are" in said
    assert written["remarks"] == ["first"]


@pytest.mark.parametrize(
    ("module", "images", "remarked"),
    [("own", 3, 1), ("own", 4, 0), ("frozen", 1, 0), ("none", 1, 0), ("in a frozen stage", 1, 0)],
)
def test_few_images_for_batch_norms_are_remarked_on(module, images, remarked):
    """Only norms that learn from a micro-batch need several images in it."""

    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> nn.Sequential:
            return super().train(False)

    norms = {"own": nn.BatchNorm2d(3), "frozen": FrozenBatchNorm2d(3), "none": nn.LayerNorm(3)}
    norm = norms.get(module, Frozen(nn.BatchNorm2d(3)))
    remarks = plan_file.plan_remarks(nn.Sequential(norm), images)
    assert len(remarks) == remarked
    assert all(f"have at most {images}; use --norm frozen" in remark for remark in remarks)


def _limits(*strategies: Strategy) -> RunLimits:
    """Limits of strategies that take 100 bytes a pixel on nothing, within a gibibyte."""
    profile = MemoryProfile(
        budget_bytes=1 << 30,
        reserved_bytes=0,
        heap="return",
        map_elements=16.0,
        probe_range=ProbeRange(10**7, 10**7, 10**7, None),
        measured=tuple(
            StrategyProfile(name="plain", strategy=each, memory=MemoryModel(0, 100), time=TimeModel(0, 1), probes=())
            for each in strategies
        ),
    )
    return RunLimits(training=profile, evaluation=profile)


TILED = Strategy((Segment(0, 1, "tile", 64), Segment(1, 2, "keep")))


@pytest.mark.parametrize(
    ("limits", "norm", "highest", "precision", "words"),
    [
        (RunLimits(budget_pixels=5), "own", "tile", "32-true", "raise --budget-pixels"),
        (_limits(PLAIN), "own", "tile", "bf16-mixed", "give --memory 4132MiB, try --norm frozen"),
        (
            _limits(PLAIN),
            "frozen",
            "tile",
            "bf16-mixed",
            "give --memory 4132MiB, try a network that can be tiled",
        ),
        (_limits(PLAIN), "own", "checkpoint", "bf16-mixed", "give --memory 4132MiB, leave --max-strategy out"),
        (_limits(PLAIN, TILED), "own", "tile", "32-true", "give --memory 4132MiB, try --precision bf16-mixed"),
        (_limits(PLAIN, replace(TILED, bf16=True)), "own", "tile", "32-true", "give --memory 4132MiB"),
    ],
)
def test_what_helps_an_image_that_does_not_fit(monkeypatch, limits, norm, highest, precision, words):
    """Nothing is proposed that the run does already, and the memory named is what both ranks need."""
    own = nn.Sequential(nn.BatchNorm2d(3))
    model = freeze_batch_norms(own) if norm == "frozen" else own
    engine = SimpleNamespace(model=model, num_local_ranks=2, device=torch.device("cpu"), fabric=None)
    monkeypatch.setattr(setup, "precision_name", lambda fabric: precision)
    config = TrainConfig(model=ModelConfig(norm=norm), device=DeviceConfig(max_strategy=highest))
    found = setup._remedies(20_000_000, config, engine, limits)
    assert found.startswith(words)
    assert found.count(",") == words.count(",") + found.count(", such as")
