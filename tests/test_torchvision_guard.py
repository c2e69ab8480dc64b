"""The guard lets torchvision be imported where it does not fit torch, and hides no other failure."""

from __future__ import annotations

import subprocess
import sys
import warnings
from importlib.abc import Loader
from pathlib import Path
from types import ModuleType

import pytest

from unsquare import torchvision_guard
from unsquare.torchvision_guard import TorchvisionMismatchWarning, _Finder, guard_torchvision, import_timm


class _Failing(Loader):
    """Loads torchvision, or raises the next of some errors."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def exec_module(self, module: ModuleType) -> None:
        """One try."""
        if self.errors:
            raise self.errors.pop(0)
        module.loaded = True


def _missing(name: str) -> RuntimeError:
    return RuntimeError(f"operator torchvision::guard_test_{name} does not exist")


def _load(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> tuple[ModuleType, list[str]]:
    """Load a torchvision that raises these errors first; returns it and the operators declared."""
    declared: list[str] = []
    monkeypatch.setattr(torchvision_guard, "_declare", lambda package, operator: declared.append(operator))
    monkeypatch.setattr(torchvision_guard, "_forget_parts", lambda package: None)
    module = ModuleType("torchvision")
    torchvision_guard._Loader(_Failing(*errors)).exec_module(module)
    return module, declared


def test_each_missing_operator_is_declared_and_one_warning_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two missing operators are declared one after the other, and the user is told once, in one sentence."""
    with pytest.warns(TorchvisionMismatchWarning, match="guard_test_a, guard_test_b") as caught:
        module, declared = _load(monkeypatch, _missing("a"), _missing("b"))
    assert module.loaded
    assert declared == ["guard_test_a", "guard_test_b"]
    assert len(caught) == 1


def test_matching_builds_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the import goes through, nothing is declared or said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module, declared = _load(monkeypatch)
    assert module.loaded
    assert declared == []


@pytest.mark.parametrize(
    "error", [RuntimeError("out of luck"), RuntimeError("operator mine::nms does not exist"), ImportError("nothing")]
)
def test_any_other_failure_passes_through(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A failure that is not about one of torchvision's operators reaches the caller unchanged."""
    with pytest.raises(type(error), match=str(error)):
        _load(monkeypatch, error)


def test_an_operator_that_stays_missing_ends_the_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Declaring an operator that is still reported missing raises instead of trying for ever."""
    with pytest.raises(RuntimeError, match="guard_test_c"):
        _load(monkeypatch, _missing("c"), _missing("c"))


def test_nothing_else_is_looked_at() -> None:
    """Of all imports torchvision's own is wrapped, and the guard stands there once however often it is asked for."""
    guard_torchvision()
    import_timm()
    finders = [finder for finder in sys.meta_path if isinstance(finder, _Finder)]
    assert len(finders) == 1
    for name in ("json", "torchvision.ops", "torchvisions", "timm"):
        assert finders[0].find_spec(name, None) is None


FAKE = """
import torch
from torchvision import part
for name in ("guard_test_one", "guard_test_two"):
    torch.library.register_fake(f"torchvision::{name}")(lambda *arguments: None)
__version__ = "fake"
"""


def test_a_mismatched_torchvision_is_repaired_whoever_imports_it_first(tmp_path: Path) -> None:
    """After `import unsquare` alone, which loads no torch, a torchvision without its operators imports whole."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(FAKE)
    (package / "part.py").write_text("count = 1\n")
    code = (
        "import sys, unsquare; assert 'torch' not in sys.modules; import torchvision, torchvision.part; "
        "assert torchvision.__spec__.loader is torchvision.__loader__; "
        "print(torchvision.__version__, torchvision.part.count, type(torchvision.__loader__).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["fake", "1", "SourceFileLoader"]
    assert done.stderr.count("TorchvisionMismatchWarning") == 1
    assert "guard_test_one, guard_test_two" in done.stderr


def test_lightning_and_timm_import_after_unsquare() -> None:
    """The real Lightning and timm import in a fresh interpreter, nothing of unsquare's but the package before them."""
    code = "import unsquare, pytorch_lightning, timm; print(timm.create_model('test_resnet').num_classes)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1000"
    assert done.stderr.count("TorchvisionMismatchWarning") <= 1
