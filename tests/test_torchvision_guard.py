"""The guard lets timm import beside a mismatched torchvision, and hides no other failure."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest

from unsquare import torchvision_guard
from unsquare.torchvision_guard import TorchvisionMismatchWarning, import_timm


def _importing(monkeypatch: pytest.MonkeyPatch, results: list[Exception | ModuleType]) -> list[str]:
    """Make every import give the next of `results`; returns the packages forgotten between imports."""
    steps: Iterator[Exception | ModuleType] = iter(results)
    forgotten: list[str] = []

    def import_module(name: str) -> ModuleType:
        result = next(steps)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(torchvision_guard.importlib, "import_module", import_module)
    monkeypatch.setattr(torchvision_guard, "_forget", lambda *packages: forgotten.extend(packages))
    return forgotten


def test_each_missing_operator_is_declared_and_one_warning_names_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two missing operators are declared one after the other, and the user is told once, in one sentence."""
    timm = ModuleType("timm")
    missing = [RuntimeError(f"operator torchvision::guard_test_{name} does not exist") for name in "ab"]
    forgotten = _importing(monkeypatch, [*missing, timm])
    with pytest.warns(TorchvisionMismatchWarning, match="guard_test_a, guard_test_b") as caught:
        assert import_timm() is timm
    assert len(caught) == 1
    assert forgotten == ["torchvision", "timm"] * 2


def test_matching_builds_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the import goes through, nothing is declared, forgotten or said."""
    timm = ModuleType("timm")
    forgotten = _importing(monkeypatch, [timm])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert import_timm() is timm
    assert forgotten == []


def test_any_other_failure_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure that is not about a torchvision operator reaches the caller unchanged."""
    _importing(monkeypatch, [RuntimeError("out of luck")])
    with pytest.raises(RuntimeError, match="out of luck"):
        import_timm()


def test_an_operator_that_stays_missing_ends_the_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Declaring an operator that is still reported missing raises instead of trying for ever."""
    error = RuntimeError("operator torchvision::guard_test_c does not exist")
    _importing(monkeypatch, [error, error])
    with pytest.raises(RuntimeError, match="guard_test_c"):
        import_timm()


def test_timm_builds_a_network_in_a_fresh_process() -> None:
    """The real timm imports twice in a fresh interpreter, says at most one sentence, and builds a network."""
    code = (
        "from unsquare.torchvision_guard import import_timm; import_timm(); "
        "print(import_timm().create_model('test_resnet').num_classes)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1000"
    assert done.stderr.count("TorchvisionMismatchWarning") <= 1
