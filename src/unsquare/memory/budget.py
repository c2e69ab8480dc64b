"""The memory budget of a run: what the user sets, or what the device and the container leave.

On a CPU the budget bounds the resident memory of the whole process, including the interpreter, the weights, the
decoder's buffers and the activations. On a CUDA device it bounds the device's memory alone.
"""

from __future__ import annotations

import resource
from pathlib import Path

import psutil
import torch

from unsquare.errors import BudgetError
from unsquare.memory.amounts import format_bytes, parse_bytes
from unsquare.memory.meter import resident_bytes

LEFT_ALONE = 0.1
"""Part of the free memory left unused when no budget is set, for the page cache and other processes."""


def budget_bytes(asked: str | None, device: torch.device, num_local_ranks: int = 1) -> int:
    """The memory budget of this rank in bytes.

    Args:
        asked: the user's setting, for all ranks of this machine (CPU) or per device (CUDA); None uses what is free.
        device: where the network runs.
        num_local_ranks: ranks that share this machine's memory.

    Raises:
        BudgetError: more is asked for than is available.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device)
        return _choose(asked, available=free + held, fallback=int((free + held) * (1 - LEFT_ALONE)), where=f"{device}")
    free = free_host_bytes()
    resident = resident_bytes() * num_local_ranks
    whole = _choose(
        asked,
        available=free + resident,
        fallback=int(free * (1 - LEFT_ALONE)) + resident,
        where="this machine",
    )
    return whole // num_local_ranks


def _choose(asked: str | None, *, available: int, fallback: int, where: str) -> int:
    if asked is None:
        return fallback
    wanted = parse_bytes(asked, available)
    if wanted > available:
        raise BudgetError(
            f"--memory asks for {format_bytes(wanted)}, but only {format_bytes(available)} is available on {where}; "
            "ask for less, or leave --memory out to use what is free."
        )
    return wanted


def free_host_bytes() -> int:
    """Bytes that this process can still take: what the machine, a container or a limit leaves."""
    limits = [limit - used for limit, used in map(_read_cgroup, _cgroup_folders()) if limit is not None]
    return max(0, min([int(psutil.virtual_memory().available), *limits, *_left_by_limits()]))


def _left_by_limits() -> list[int]:
    """Bytes left by the limits on this process's own address space and data (`ulimit -v`, `-d`)."""
    try:
        pages = [int(number) for number in Path("/proc/self/statm").read_text().split()]
    except OSError:
        return []
    used = {resource.RLIMIT_AS: pages[0], resource.RLIMIT_DATA: pages[5]}
    soft = {kind: resource.getrlimit(kind)[0] for kind in used}
    return [soft[kind] - resource.getpagesize() * used[kind] for kind in used if soft[kind] != resource.RLIM_INFINITY]


def _cgroup_folders() -> list[Path]:
    """The folders of the memory controllers that limit this process, versions 1 and 2, innermost first."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = Path("/sys/fs/cgroup/memory" if controllers else "/sys/fs/cgroup")
        inner = top / name.lstrip("/")
        folders += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(top)]
    return folders


def _read_cgroup(folder: Path) -> tuple[int | None, int]:
    """The limit in bytes (None where there is none) and how much of it is used, without page cache that can be
    dropped."""
    for limit_names, used_name, cache_key in (
        (("memory.max", "memory.high"), "memory.current", "inactive_file"),  # above high, the kernel slows the process
        (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limits = [(folder / name).read_text().strip() for name in limit_names if (folder / name).exists()]
            used = int((folder / used_name).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        numbers = [int(limit) for limit in limits if limit != "max"]
        if not numbers or min(numbers) > 1 << 60:  # version 1 writes "no limit" as a huge number
            return None, used
        return min(numbers), used - int(stat.get(cache_key, 0))
    return None, 0
