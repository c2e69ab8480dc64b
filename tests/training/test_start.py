"""What is written before the first step."""

import json

import numpy as np

from unsquare.index.table import ShapeIndex, empty_strings, strings
from unsquare.plan import Limits, plan_epoch
from unsquare.training import start
from unsquare.training.config import TrainConfig
from unsquare.training.console import Console
from unsquare.training.run import RunFolder


def test_of_a_very_long_epoch_the_first_steps_are_written(tmp_path, monkeypatch, capsys):
    """Training does not wait for an epoch to be planned: beyond a bound, figures are those of the first steps."""
    monkeypatch.setattr(start, "WRITTEN_STEPS", 3)
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
    start._write_plan(run, config, limits, plan, index, Console())
    written = json.loads(run.plan.read_text())
    first = [batch for step in list(plan.steps)[:3] for batch in step.micro_batches]
    assert written["steps_of_epoch"] == len(plan.steps) == 16
    assert written["ledger"]["num_steps"] == 3
    assert written["micro_batches"] == [[len(batch.images), *batch.canvas] for batch in first]
    assert "16 steps, the first 3 of which are" in " ".join(capsys.readouterr().err.split())
