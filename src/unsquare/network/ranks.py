"""The processes of a run (ranks): how many there are, and their communication.

All communication goes through here: when one rank ends, it fails in the others, which say so in one sentence instead of
the backend's trace.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from unsquare.errors import ConfigError, RunError, UnsquareError

T = TypeVar("T")

_REASON = 120
"""Characters of the backend's error that are shown; gloo appends advice to its authors."""
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables by which Open MPI, MPICH and its relatives, and MVAPICH give the number of processes."""


def processes_here() -> tuple[int, int]:
    """The number of processes of the run on this machine, and of machines, as set by torchrun or srun.

    Raises:
        ConfigError: several processes were started by other means.
    """
    if TorchElasticEnvironment.detect():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return here, int(os.environ["WORLD_SIZE"]) // here
    if SLURMEnvironment.detect():
        return _tasks_of_slurm()
    several = next((name for name in _MPI_SIZES if _number(name) > 1), None)
    if several is not None:
        raise ConfigError(
            f"Processes that share a run must be started by torchrun or srun, but {several} says that MPI started "
            f"{_number(several)}; use `torchrun --nproc-per-node {_number(several)} -m unsquare ...`."
        )
    return 1, 1


def _tasks_of_slurm() -> tuple[int, int]:
    tasks, nodes = _number("SLURM_NTASKS"), _number("SLURM_NNODES", "SLURM_JOB_NUM_NODES")
    if tasks > 1 and not {"SLURM_STEP_ID", "SLURM_STEPID"} & set(os.environ):
        raise ConfigError(
            f"Slurm has {tasks} tasks for this job, but srun did not start this process, so it would wait for the "
            "others forever; start the command with srun, use torchrun, or ask for one task."
        )
    if tasks % nodes:
        raise ConfigError(
            f"Each node must run the same number of tasks, but {tasks} are on {nodes} nodes; give srun "
            "--ntasks-per-node."
        )
    os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(tasks // nodes))  # Fabric needs it as well as the other two
    return tasks // nodes, nodes


def _number(*names: str) -> int:
    """The first of these variables that is a number; 1 where none is."""
    found = (os.environ.get(name, "") for name in names)
    return next((int(value) for value in found if value.isdecimal() and int(value)), 1)


def meet_again(fabric: Fabric) -> None:
    """Let processes that torchrun restarted connect to each other, not to those that ended; does nothing for others.

    torchrun keeps one store for all attempts, with the addresses of dead processes in it; a process that reads one
    before it is overwritten waits for half an hour. So each attempt gets its own part of the store.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or not TorchElasticEnvironment.detect() or dist.is_initialized():
        return
    store, rank, world_size = next(dist.rendezvous("env://"))
    own = dist.PrefixStore(f"unsquare/attempt_{attempt}", store)
    backend = "nccl" if fabric.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=own, rank=rank, world_size=world_size)


def is_first() -> bool:
    """Whether this process writes the files."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


@contextmanager
def together() -> Iterator[None]:
    """Within the block ranks communicate; a rank that has ended is a RunError.

    Raises:
        RunError: another process has ended, or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error).splitlines()[0][:_REASON] if str(error) else type(error).__name__
        raise RunError(
            "Another process of the run has ended or cannot be reached; its own message says why, and the same command "
            f"resumes from the last checkpoint ({said})."
        ) from error


def broadcast(fabric: Fabric, value: T) -> T:
    """The first rank's value, on all ranks."""
    with together():
        found: T = fabric.broadcast(value)
    return found


def barrier(fabric: Fabric) -> None:
    """Wait until all ranks arrive."""
    with together():
        fabric.barrier()


def all_reduce(values: torch.Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> None:
    """Replace a tensor by the sum of the ranks' tensors, or by their reduction by `op`."""
    with together():
        dist.all_reduce(values, op=op)


def from_first(fabric: Fabric, work: Callable[[], T]) -> T:
    """The result of the first rank's work, on all ranks.

    Raises:
        UnsquareError: the work's own error, on the first rank; the others are told that it failed.
    """
    found: T | None = None
    error: UnsquareError | None = None
    if fabric.is_global_zero:
        try:
            found = work()
        except UnsquareError as caught:
            error = caught
    failed, found = broadcast(fabric, (error is not None, found))
    if failed:
        raise error or RunError("The first process could not start the run; its message says why.")
    return found  # type: ignore[return-value]  # the work's own result, which may be None
