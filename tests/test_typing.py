"""What type checkers tell users of the package: precise types, and errors where a call is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import unsquare

SCRIPT = Path(__file__).parent / "typing" / "users_script.py"
LOOSE = {
    "train": r"\*\*settings: Any",  # settings of several types, by the names of flags; checked when called
    "find_lr": r"\*\*settings: Any",
    "profile": r"\*\*device: Any",
    "Predictor": r"\*\*device: Any",
    "RankStep": r"batches: typing.Iterator\[Any\]",  # what a collate function returns is the caller's choice
    "StepLoader": r"DataLoader\[Any\]",
}
"""Public names whose types say Any in one place, and why."""
NUMPYS_OWN = re.compile(r"numpy\.ndarray\[tuple\[Any, \.\.\.\]|numpy\.dtype\[Any\]|numpy\.integer\[Any\]")
"""An array of any number of axes, and an array or number of any type, as NumPy's annotations have them."""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All that mypy says of the script, in strict mode."""
    command = [
        *(sys.executable, "-m", "mypy", "--config-file=", "--strict", "--no-implicit-reexport"),
        *("--follow-imports=silent", f"--cache-dir={tmp_path_factory.mktemp('mypy')}", str(SCRIPT)),
    ]
    environment = {**os.environ, "MYPYPATH": str(Path(unsquare.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert not done.stderr
    return done.stdout


def revealed(said: str) -> dict[str, str]:
    """The type of each expression that the script reveals."""
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    types = {}
    for number, kind in re.findall(r'users_script\.py:(\d+): note: Revealed type is "(.*)"', said):
        types[lines[int(number) - 1].strip().removeprefix("reveal_type(").removesuffix(")")] = kind
    return types


def test_right_calls_pass_and_wrong_ones_are_errors(said):
    """The script's wrong calls have comments that mypy reports where no error is to be ignored."""
    assert [line for line in said.splitlines() if "note:" not in line] == ["Success: no issues found in 1 source file"]


def test_every_public_name_has_a_type(said):
    """The script reveals all of them; none is missing where type checkers look."""
    assert {name for name in unsquare.__all__ if name != "__version__"} <= set(revealed(said))


def test_types_are_precise(said):
    """Nothing that is public, nor what it returns, is Any or has it inside, beyond what is listed."""
    for expression, kind in revealed(said).items():
        known = re.sub(LOOSE.get(expression, r"(?!)"), "", NUMPYS_OWN.sub("", kind), count=1)
        assert not re.search(r"\bAny\b", known), f"{expression}: {kind}"
