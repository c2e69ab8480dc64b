"""What is written before the first step."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from unsquare.execution.strategy import PLAIN, Segment, Way
from unsquare.index.table import ShapeIndex, empty_strings, strings
from unsquare.memory.model import MemoryModel, TimeModel
from unsquare.network.classifier import ModelConfig
from unsquare.network.device import DeviceConfig
from unsquare.plan import Limits, plan_epoch
from unsquare.runs.folder import RunFolder
from unsquare.training import setup
from unsquare.training.bounds import Bounds
from unsquare.training.capacity import Capacity, MeasuredRung
from unsquare.training.config import TrainConfig
from unsquare.training.console import Console
from unsquare.training.probing import Need


def test_of_a_very_long_epoch_the_first_steps_are_written(tmp_path, monkeypatch, capsys):
    """Training does not wait for an epoch to be planned: beyond a bound, figures are those of the first steps."""
    monkeypatch.setattr(setup, "WRITTEN_STEPS", 3)
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
    setup._write_plan(run, config, limits, plan, index, Console())
    written = json.loads(run.plan.read_text())
    first = [batch for step in list(plan.steps)[:3] for batch in step.micro_batches]
    assert written["steps_of_epoch"] == len(plan.steps) == 16
    assert written["ledger"]["num_steps"] == 3
    assert written["micro_batches"] == [[len(batch.images), *batch.canvas] for batch in first]
    assert "16 steps, the first 3 of which are" in " ".join(capsys.readouterr().err.split())


def _bounds(*ways: Way) -> Bounds:
    """Bounds with rungs of 100 bytes a pixel on nothing, within a gibibyte."""
    need = Need(10**7, 10**7, 10**7, None)
    rungs = tuple(
        MeasuredRung(name="plain", way=way, memory=MemoryModel(0, 100), time=TimeModel(0, 1), probes=()) for way in ways
    )
    return Bounds(
        capacity=Capacity(
            budget_bytes=1 << 30,
            reserved_bytes=0,
            heap="return",
            map_elements=16.0,
            need=need,
            evaluation_need=need,
            rungs=rungs,
            evaluation_rungs=rungs,
        )
    )


STREAMED = Way((Segment(0, 1, "stream", 64), Segment(1, 2, "keep")))


@pytest.mark.parametrize(
    ("bounds", "norm", "highest", "precision", "words"),
    [
        (Bounds(budget_pixels=5), "own", "stream", "32-true", "raise --budget-pixels"),
        (_bounds(PLAIN), "own", "stream", "bf16-mixed", "give --memory 4132MiB, try --norm frozen"),
        (
            _bounds(PLAIN),
            "frozen",
            "stream",
            "bf16-mixed",
            "give --memory 4132MiB, try a network that can run piece by",
        ),
        (_bounds(PLAIN), "own", "checkpoint", "bf16-mixed", "give --memory 4132MiB, leave --highest-rung out"),
        (_bounds(PLAIN, STREAMED), "own", "stream", "32-true", "give --memory 4132MiB, try --precision bf16-mixed"),
        (_bounds(PLAIN, replace(STREAMED, bf16=True)), "own", "stream", "32-true", "give --memory 4132MiB"),
    ],
)
def test_what_helps_an_image_that_does_not_fit(monkeypatch, bounds, norm, highest, precision, words):
    """Nothing is proposed that the run does already, and the memory named is what both ranks need."""
    model = nn.Sequential(nn.BatchNorm2d(3))
    engine = SimpleNamespace(model=model, num_local_ranks=2, device=torch.device("cpu"), fabric=None)
    monkeypatch.setattr(setup, "precision_name", lambda fabric: precision)
    config = TrainConfig(model=ModelConfig(norm=norm), device=DeviceConfig(highest_rung=highest))
    found = setup._remedies(20_000_000, config, engine, bounds)
    assert found.startswith(words)
    assert found.count(",") == words.count(",") + found.count(", such as")
