"""What commands load: help, planning and scanning answer at once, without torch."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from unsquare import cli, torchvision_guard
from unsquare.cli import COMMANDS, main
from unsquare.cli.arguments import ARGUMENTS

HEAVY = ("torch", "torchvision", "timm", "lightning_fabric", "pytorch_lightning", "torchmetrics", "matplotlib")
PROGRAM = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise AssertionError(f"{{name}} was imported")

sys.meta_path.insert(0, Refuse())
from unsquare.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code or 0
found = sorted(set(sys.modules) & set({HEAVY!r}))
sys.exit(f"loaded {{found}}" if found else status)
"""


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, where importing anything heavy fails."""
    line = [sys.executable, "-c", PROGRAM, *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def test_every_command_has_its_arguments() -> None:
    """The two tables name the same commands in the same order."""
    assert list(COMMANDS) == list(ARGUMENTS)


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    """A fresh process answers without torch, timm, Lightning, torchvision or matplotlib."""
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "unsquare" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("words", [["train", "photos", "--batch-size", "3"], ["trian"], ["train", "--epochs", "x"]])
def test_wrong_calls_load_nothing_heavy(words: list[str]) -> None:
    """A mistake in the flags is answered before anything is loaded for the command."""
    done = run(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("unsquare: ")


def test_scanning_and_planning_load_nothing_heavy(make_folder, tmp_path: Path) -> None:
    """A source is scanned, decoded and planned on a machine without torch."""
    index = tmp_path / "index.parquet"
    done = run("scan", make_folder(), "--out", index, "--verify")
    assert done.returncode == 0, done.stderr
    assert f"wrote the index to {index}." in done.stdout
    for words in (["plan", index], ["plan", index, "--json", "--max-pixels", "1kP"]):
        done = run(*words)
        assert done.returncode == 0, done.stderr


def test_settings_need_no_torch() -> None:
    """The settings of a run can be made, read and written without it."""
    program = (
        "import sys, unsquare; from unsquare.training.config import from_toml, to_toml; "
        "config = from_toml('[geometry]\\nmax_pixels = \"16MP\"\\n', 'x'); "
        "assert 'max_pixels = 16000000' in to_toml(config); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("words", [["--verbose", "report", "run"], ["report", "run", "--verbose"], ["report", "run"]])
def test_messages_are_printed_on_request(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the library logs is printed with --verbose, before or after the command, and else not."""

    def run(given: object) -> int:
        logging.getLogger("unsquare.torchvision_guard").info("said")
        return 0

    monkeypatch.setattr(cli, "importlib", SimpleNamespace(import_module=lambda name: SimpleNamespace(run=run)))
    assert main(words) == 0
    assert capsys.readouterr().err == ("unsquare: said\n" if "--verbose" in words else "")
    assert logging.getLogger("unsquare").handlers == []


@pytest.mark.parametrize("kind", [RuntimeError, AttributeError])
def test_a_failing_operator_of_torchvision_is_explained(
    kind: type[Exception], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence in place of a traceback where torchvision does not fit torch; other errors are raised."""

    def run(given: object) -> int:
        raise kind("torchvision::nms cannot be called")

    monkeypatch.setattr(cli, "importlib", SimpleNamespace(import_module=lambda name: SimpleNamespace(run=run)))
    monkeypatch.setattr(torchvision_guard, "_declarations", [])
    with pytest.raises(kind, match="nms"):
        main(["report", "run"])
    monkeypatch.setattr(torchvision_guard, "_declarations", [object()])
    assert main(["report", "run"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("unsquare: The installed torchvision does not fit the installed torch; install")
    assert said.endswith("(torchvision::nms cannot be called)\n")
