"""Memory that runs out in a whole run: on one rank or on several, the losses are the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from unsquare.cli import main

from .conftest import environment, losses

SCRIPT = Path(__file__).with_name("short_of_memory.py")
TRAINED = (
    *("--backbone", "test_convnext", "--epochs", "2", "--step-images", "12", "--budget-pixels", "200000"),
    *("--precision", "32-true", "--min-side", "33"),
)


def test_a_real_limit_is_met_and_survived():
    """Within the operating system's own limit a batch that is too large is halved, and the process lives."""
    program = """
import resource, sys, torch
from tests.capacity.test_recovery import PINNED, batch_of, make_engine
from unsquare.capacity.recovery import Recovery
engine = make_engine("test_resnet")
recovery = Recovery(engine, PINNED, "plain")
small = batch_of([(256, 256)])
recovery.accumulate(small, 1)
taken = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (taken + (300 << 20), resource.RLIM_INFINITY))
done = recovery.accumulate(batch_of([(512, 512)] * 8), 1 / 8)
print(done.shortages, [images for images, *_ in done.measured], done.loss)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=root, env=environment(), timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shortages, rest = done.stdout.split(maxsplit=1)
    assert int(shortages) >= 1
    assert sum(json.loads(rest[: rest.index("]") + 1])) == 8


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """A run of one process that had enough memory."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", str(pictures), "--out", str(run), *TRAINED]) == 0
    return run


@pytest.mark.parametrize("rank", [0, 1])
def test_a_shortage_on_one_of_two_ranks_changes_nothing(pictures, trained, tmp_path, rank):
    """Memory runs out on one rank, in forward and in backward; the ranks continue together and the losses are the
    same."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = [sys.executable, *launcher, SCRIPT, str(rank), "1", "5", "train", pictures, "--out", tmp_path / "run"]
    path = f"{Path(__file__).parents[2]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [*map(str, command), *TRAINED],
        capture_output=True,
        text=True,
        env=environment() | {"PYTHONPATH": path},
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(trained), rtol=1e-5)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(row.get("shortages", 0) for row in rows) >= 1
