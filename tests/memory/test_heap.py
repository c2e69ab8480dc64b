"""Freed memory goes back to the operating system, or is kept, as the heap was told; each in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

from unsquare.memory import heap

pytestmark = [
    pytest.mark.skipif(not heap.is_tunable(), reason="the C library has no mallopt"),
    pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="resident memory is read from /proc"),
]

MB = 1 << 20

_BEGIN = """
import json, resource
import numpy as np, torch
from unsquare.memory import heap

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def taken():
    return resident() - start

start = resident()
found = {}
"""


def _run(program):
    """What a program noted in `found`, in megabytes."""
    done = subprocess.run(
        [sys.executable, "-c", f"{_BEGIN}{program}\nprint(json.dumps(found))"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return {name: value / MB for name, value in json.loads(done.stdout.splitlines()[-1]).items()}


def test_returned_memory_leaves_at_once():
    """One block of 300 MB, and every other one of many blocks of 2 MB, is gone as soon as it is freed."""
    found = _run("""
heap.return_freed()
for name, make in (("numpy", lambda: np.ones(300 << 20, np.uint8)), ("torch", lambda: torch.ones(75 << 20))):
    block = make()
    found[name] = taken()
    del block
    found[name + " freed"] = taken()
blocks = [torch.ones(512 << 10) for _ in range(150)]
found["many"] = taken()
del blocks[::2]
found["half"] = taken()
""")
    assert found["numpy"] == pytest.approx(300, abs=15)
    assert found["torch"] == pytest.approx(300, abs=15)
    assert found["many"] == pytest.approx(300, abs=20)
    assert found["half"] == pytest.approx(150, abs=20)
    assert max(found["numpy freed"], found["torch freed"]) < 15


def test_kept_memory_stays_until_it_is_released():
    """A freed block of 300 MB stays, serves the next one that fits, and leaves when what is unused is released."""
    found = _run("""
heap.keep_freed()
block = torch.ones(75 << 20)
del block
found["freed"] = taken()
block = torch.ones(60 << 20)
found["again"] = taken()
del block
heap.release_unused()
found["released"] = taken()
""")
    assert found["freed"] == pytest.approx(300, abs=15)
    assert found["again"] == pytest.approx(300, abs=15)
    assert found["released"] < 30


@pytest.mark.parametrize("told", ["return_freed", "keep_freed"])
def test_bytes_in_use_follow_what_is_held(told):
    """They grow by a block, small or large, and fall when it is freed, though its memory be kept."""
    if heap.in_use_bytes() is None:
        pytest.skip("the C library has no mallinfo2")
    found = _run(f"""
heap.{told}()
before = heap.in_use_bytes()
large = torch.zeros(75 << 20)
found["large"] = heap.in_use_bytes() - before
small = [bytearray(100_000) for _ in range(500)]
found["both"] = heap.in_use_bytes() - before
del large
found["small"] = heap.in_use_bytes() - before
del small
found["none"] = heap.in_use_bytes() - before
""")
    assert found["large"] == pytest.approx(300, abs=3)
    assert found["both"] == pytest.approx(348, abs=3)
    assert found["small"] == pytest.approx(48, abs=3)
    assert found["none"] == pytest.approx(0, abs=3)
