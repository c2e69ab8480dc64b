"""Wrong calls of the public functions are refused in one sentence, and calls that should work do.

The calls are those of `benchmarks/adversarial_misuse.py`, which also trains, predicts and runs the commands.
"""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def misuse():
    """The benchmark as a module."""
    path = Path(__file__).parents[1] / "benchmarks" / "adversarial_misuse.py"
    spec = importlib.util.spec_from_file_location("adversarial_misuse", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def stage(misuse, tmp_path_factory):
    """A folder with pictures and wrong files."""
    return misuse.Stage(tmp_path_factory.mktemp("stage"))


@pytest.mark.parametrize("group", ["settings", "train", "plan", "loader", "network"])
def test_every_wrong_call_is_refused(misuse, stage, group):
    """Types, ranges, shapes and names; nothing else is raised, nothing is taken, and nothing is left behind."""
    cases = getattr(misuse, f"{group}_cases")(stage)
    found = [(case, *misuse.outcome(case, stage)) for case in cases]
    wrong = [(case.name, *rest) for case, *rest in found if rest[0] != ("refused" if case.wrong else "accepted")]
    assert len(found) > 100
    assert wrong == []
