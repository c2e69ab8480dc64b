"""A run is the same whether it is stopped, killed, resumed or spread over processes."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from unsquare.api import resume, train
from unsquare.cli import main
from unsquare.errors import RunError
from unsquare.runs.checkpoints import newest, problem, sha256_of

from .conftest import environment, losses

# Batch norm, drop path, all of augmentation: whatever could draw at random or carry state does so here.
RESUMED = (
    *("--backbone", "test_resnet", "--drop-path", "0.1", "--turns", "--color-jitter", "0.2", "--dropout", "0.1"),
    *("--epochs", "2", "--step-images", "4", "--budget-pixels", "40000", "--precision", "32-true"),
    *("--checkpoint-every-steps", "2", "--min-side", "33"),
    *("--auto-augment", "trivialaugment", "--blur", "0.3", "--erasing", "0.3", "--mixup", "0.5", "--cutmix", "1"),
)
# Norms that do not cross images, fp32, nothing drawn that differs from rank to rank.
SPREAD = (
    *("--backbone", "test_convnext", "--epochs", "2", "--step-images", "5", "--budget-pixels", "40000"),
    *("--precision", "32-true", "--min-side", "33", "--auto-augment", "randaugment", "--erasing", "0.5"),
)
# What is not compared bit by bit runs in the process of the tests, which has its imports behind it.
SMALL = {"backbone": "test_resnet", "epochs": 1, "budget_pixels": 40_000, "min_side": 33}
REWRITTEN = "models.json has changed or is damaged; it is restored from the checkpoint"


@pytest.fixture(scope="module")
def uninterrupted(pictures, tmp_path_factory):
    """A run that nothing stopped."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    command = [sys.executable, "-m", "unsquare", "train", pictures, "--out", out, *RESUMED]
    subprocess.run(command, check=True, capture_output=True, env=environment())
    return out


def _start(pictures, out, settings=RESUMED, launcher=()):
    command = [sys.executable, *launcher, "-m", "unsquare", "train", pictures, "--out", out, *settings]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait_for_steps(process, run, steps):
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") >= steps:
            return
        time.sleep(0.005)
    raise AssertionError(f"the run did not reach {steps} steps: {process.communicate()[1]}")


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_resumes_with_the_same_losses(pictures, uninterrupted, unsquare, tmp_path, stop):
    """Stopped in mid-epoch by any signal and resumed, every loss is bit for bit that of the uninterrupted run.

    What Ctrl-C saves is what SIGTERM saves, so one of them is resumed.
    """
    run = tmp_path / "run"
    process = _start(pictures, run)
    _wait_for_steps(process, run, 3)
    process.send_signal(stop)
    message = process.communicate(timeout=120)[1]
    if stop == signal.SIGKILL:
        assert process.returncode == -stop
    else:
        assert process.returncode == 128 + stop, message
        assert f"unsquare train --resume {run}" in message
    reached = len(losses(run))
    assert reached < len(losses(uninterrupted)), "the run was over before the signal came"
    assert losses(run) == losses(uninterrupted)[:reached]
    if stop == signal.SIGINT:
        assert not problem(newest(run / "checkpoints"))
        return
    again = ("train", pictures, "--out", run, *RESUMED) if stop == signal.SIGKILL else ("train", "--resume", run)
    resumed = unsquare(*again)
    assert resumed.returncode == 0, resumed.stderr
    assert losses(run) == losses(uninterrupted)
    final = [json.loads((each / "metrics.jsonl").read_text().splitlines()[-1]) for each in (run, uninterrupted)]
    assert final[0]["loss"] == final[1]["loss"]
    assert (run / "report.html").is_file()


def test_two_processes_give_the_curve_of_one_though_one_is_killed(pictures, tmp_path):
    """The loss of every step agrees between one process and two to 1e-5, relative, where torchrun restarts them.

    The survivor ends with a sentence, and the same command resumes from the last checkpoint.
    """
    assert main(["train", str(pictures), "--out", str(tmp_path / "one"), *SPREAD]) == 0
    run = tmp_path / "two"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "3")
    process = _start(pictures, run, (*SPREAD, "--checkpoint-every-steps", "2"), launcher)
    _wait_for_steps(process, run, 4)
    ranks = psutil.Process(process.pid).children(recursive=True)
    next(rank for rank in ranks if rank.environ().get("RANK") == "1").kill()
    said, message = process.communicate(timeout=240)
    assert process.returncode == 0, message
    assert "after step" in message
    assert "Traceback" not in message
    one, two = losses(tmp_path / "one"), losses(run)
    assert len(one) == len(two) == 10
    np.testing.assert_allclose(two, one, rtol=1e-5)
    plan = json.loads((run / "plan.json").read_text())
    assert plan["limits"]["world_size"] == 2
    assert said.count("The report is") == 1


def test_a_picture_that_breaks_in_mid_run_loses_nothing(pictures, uninterrupted, unsquare, tmp_path):
    """A file damaged behind its header stops the run with one sentence; once it is repaired, the run resumes."""
    source = tmp_path / "pictures"
    shutil.copytree(pictures, source)
    broken = next((source / "train").rglob("*.jpg"))
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2] + whole[-2:])
    index = tmp_path / "index.parquet"
    assert main(["scan", str(source), "--out", str(index)]) == 0
    stopped = unsquare("train", index, "--out", tmp_path / "run", *RESUMED)
    assert stopped.returncode == 1
    assert broken.name in stopped.stderr
    assert "Traceback" not in stopped.stderr
    broken.write_bytes(whole)
    resumed = unsquare("train", "--resume", tmp_path / "run", "--changed-pictures")
    assert resumed.returncode == 0, resumed.stderr
    assert not problem(newest(tmp_path / "run" / "checkpoints"))
    assert losses(tmp_path / "run") == losses(uninterrupted)


def test_two_processes_of_srun_share_batch_norms_statistics(pictures, unsquare, tmp_path):
    """With batch norm, running statistics are the mean of the ranks', and the run resumes with one process."""
    settings = ("--backbone", "test_resnet", "--epochs", "1", "--step-images", "6", "--budget-pixels", "40000")
    run = tmp_path / "run"
    command = [sys.executable, "-m", "unsquare", "train", pictures, "--out", run, *settings, "--min-side", "33"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    job = {"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NODEID": "0"}
    job |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    tasks = [
        subprocess.Popen(
            command,
            env=environment() | job | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    for task in tasks:
        message = task.communicate(timeout=240)[1]
        assert task.returncode == 0, message
    assert json.loads((run / "plan.json").read_text())["limits"]["world_size"] == 2
    resume(run, epochs=2, quiet=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows].count("final") == 1
    assert len(losses(run)) == 8


def test_b2b_trains_every_image_once_and_refuses_another_number_of_ranks(pictures, tmp_path):
    """An epoch in b2b counts each image once, its rate follows the batch, and it stays on its number of ranks."""
    run = train(pictures, tmp_path / "run", steps="b2b", buckets=3, lr_policy="linear", quiet=True, **SMALL)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    assert sum(row["num_images"] for row in steps) == 24
    assert len({row["learning_rate"] for row in steps}) > 1
    _started_on_two(run)
    with pytest.raises(RunError, match="started on 2"), pytest.warns(UserWarning, match=REWRITTEN):
        resume(run, epochs=2, quiet=True)


def _started_on_two(run):
    """Have a run's checkpoints say that two processes began it."""
    for path in (run / "checkpoints").iterdir():
        state = json.loads((path / "state.json").read_text())
        state["origin"]["bounds"]["world_size"] = 2
        (path / "state.json").write_text(json.dumps(state))
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["sha256"]["state.json"] = sha256_of(path / "state.json")
        (path / "manifest.json").write_text(json.dumps(manifest))


def test_mixed_steps_on_few_canvases_resume_on_another_number_of_ranks(pictures, tmp_path):
    """Canvases change what a step computes, not which images it has."""
    run = train(pictures, tmp_path / "run", canvases=4, multiple=8, step_images=6, quiet=True, **SMALL)
    _started_on_two(run)
    with pytest.warns(UserWarning, match=REWRITTEN):
        resume(run, epochs=2, quiet=True)
    assert json.loads((run / "models.json").read_text())["world_size"] == 1
