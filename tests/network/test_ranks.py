"""Processes that share a run are counted as their launcher says, and learn in a sentence that one of them has ended."""

from types import SimpleNamespace

import pytest
import torch.distributed as dist

from unsquare.errors import ConfigError, RunError
from unsquare.network.ranks import all_reduce, from_first, processes_here

SLURM = {"SLURM_NTASKS": "6", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "0"}


@pytest.fixture(autouse=True)
def unlaunched(monkeypatch):
    """No launcher's variables."""
    for name in ("SLURM_NTASKS_PER_NODE", *SLURM, "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_process_alone_is_one():
    """Without a launcher."""
    assert processes_here() == (1, 1)


def test_torchrun_says_how_many(monkeypatch):
    """Processes here, and machines."""
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "12"}.items():
        monkeypatch.setenv(name, value)
    assert processes_here() == (4, 3)


def test_srun_says_how_many(monkeypatch):
    """Tasks on each node, and nodes."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert processes_here() == (3, 2)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({**SLURM, "SLURM_STEP_ID": None}, "srun did not start this process.*torchrun"),
        ({**SLURM, "SLURM_NTASKS": "5"}, "5 are on 2 nodes; give srun --ntasks-per-node"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE says that MPI started 2; use `torchrun"),
        ({"PMI_SIZE": "3"}, "PMI_SIZE says that MPI started 3; use `torchrun"),
    ],
)
def test_several_that_would_not_find_each_other_are_refused(monkeypatch, variables, words):
    """In one sentence that names torchrun or srun, instead of waiting, or of each training alone."""
    for name, value in variables.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=words):
        processes_here()


def test_one_task_of_slurm_is_one(monkeypatch):
    """In a batch script without srun, and with it; an interactive job starts its processes otherwise."""
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert processes_here() == (1, 1)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert processes_here() == (1, 1)


def test_a_lost_rank_is_a_sentence(monkeypatch):
    """Whatever the backend raises."""

    def lost(*_, **__):
        raise RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:9\nmore")

    monkeypatch.setattr(dist, "all_reduce", lost)
    with pytest.raises(
        RunError, match=r"Another process of the run has ended.*same command resumes .*Connection closed by peer \[127"
    ):
        all_reduce(None)


def test_all_ranks_learn_that_the_first_failed():
    """The first raises its own error, the others a sentence; what it finds is everyone's."""
    sent = []

    def fabric(is_first):
        def broadcast(value):
            if is_first:
                sent.append(value)
            return sent[-1]

        return SimpleNamespace(is_global_zero=is_first, broadcast=broadcast)

    def fail():
        raise ConfigError("no such thing")

    with pytest.raises(ConfigError, match="no such thing"):
        from_first(fabric(True), fail)
    with pytest.raises(RunError, match="first process could not start"):
        from_first(fabric(False), fail)
    assert [from_first(fabric(first), lambda: 5) for first in (True, False)] == [5, 5]
