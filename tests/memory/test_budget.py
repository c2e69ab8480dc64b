"""Memory is never promised beyond what there is."""

import subprocess
import sys

import psutil
import pytest
import torch

from unsquare.errors import BudgetError
from unsquare.memory import budget

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_the_processes_own_limit_counts(kind):
    """A limit on address space or data, as `ulimit` sets, bounds what is free, and shrinks with what is taken."""
    program = f"""
import mmap, resource
from unsquare.memory.budget import free_host_bytes
used = [int(part) for part in open("/proc/self/statm").read().split()]
taken = resource.getpagesize() * used[0 if "{kind}" == "RLIMIT_AS" else 5]
resource.setrlimit(resource.{kind}, (taken + (300 << 20), resource.RLIM_INFINITY))
before = free_host_bytes()
held = mmap.mmap(-1, 100 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print(before, before - free_host_bytes())
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, taken = map(int, found.stdout.split())
    assert before == pytest.approx(300 << 20, rel=0.05)
    assert taken == pytest.approx(100 << 20, rel=0.05)


def test_more_than_there_is_cannot_be_had():
    """A budget above the machine's memory says what is left."""
    with pytest.raises(BudgetError, match=r"asks for .*, but only .* is available on this machine"):
        budget.budget_bytes("4000GiB", CPU)


def test_ranks_share_a_machine():
    """Two ranks on one machine get half of what is asked each."""
    assert budget.budget_bytes("1GiB", CPU, num_local_ranks=2) == 1 << 29


def test_without_a_wish_most_of_what_is_free_is_taken():
    """The default lies between half and all of what the operating system says is available."""
    free = psutil.virtual_memory().available
    assert budget.budget_bytes(None, CPU) - budget.resident_bytes() == pytest.approx(0.9 * free, rel=0.1)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "1000000000", "memory.current": "400000000", "memory.stat": "inactive_file 100000000"}, 7e8),
        (
            {
                "memory.limit_in_bytes": "1000000000",
                "memory.usage_in_bytes": "400000000",
                "memory.stat": "total_inactive_file 0",
            },
            6e8,
        ),
        (
            {
                "memory.max": "max",
                "memory.high": "500000000",
                "memory.current": "400000000",
                "memory.stat": "inactive_file 0",
            },
            1e8,
        ),
        ({"memory.max": "max", "memory.current": "5", "memory.stat": "inactive_file 0"}, None),
        ({}, None),
    ],
)
def test_the_containers_limit_counts(files, expected, tmp_path, monkeypatch):
    """Both versions of control groups are read; cache that can go is free; no limit is none."""
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(budget, "_cgroup_folders", lambda: [tmp_path])
    free = budget.free_host_bytes()
    if expected is None:
        assert free > 7e8
    else:
        assert free == expected
