"""`unsquare verify-exact`: a table, one JSON object, and a status that tells exact from inexact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unsquare.cli import main
from unsquare.exact.ops import strips

NET = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1))

class Chaotic(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.more = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.body(x).sigmoid()
        for _ in range(45):
            x = 3.99 * x * (1 - x)
        return self.more(x).mean((2, 3))

def number():
    return 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a network of one's own in the current folder."""
    (tmp_path / "own_network.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return "own_network:make"


def test_a_table_of_networks(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Names and own networks are measured; a refusal is a row with its reason and no failure."""
    assert main(["verify-exact", "test_resnet", own, "mobilevit_xxs", "--sizes", "64x81,96x70"]) == 0
    out = capsys.readouterr().out
    assert out.count("exact") >= 2
    assert "mobilevit_xxs is refused: " in out
    assert "64x81, 96x70" in out


def test_help_ends_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """The settings and the exit status are explained, and the last line can be run."""
    with pytest.raises(SystemExit):
        main(["verify-exact", "--help"])
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "exit status is 0 where every network that converts is exact" in out
    assert out.endswith("unsquare verify-exact resnet50 efficientnet_b0 --sizes 97x131,128x160")


def test_json(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One object holds every number."""
    assert main(["verify-exact", own, "--json", "--no-training", "--max-side", "64"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert model["status"] == "exact"
    assert model["evaluation"]["outputs"] < 1e-10 < model["evaluation"]["naive_outputs"]
    assert model["training"] is None


def test_the_status_tells(own: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Inexact, all refused and unknown end with 1."""
    assert main(["verify-exact", "mobilevit_xxs"]) == 1
    assert main(["verify-exact", "resnet5O", own, "--no-training", "--max-side", "64"]) == 1
    assert "did you mean resnet50" in capsys.readouterr().err
    monkeypatch.setattr(strips, "fill", lambda x, regions, value: None)
    assert main(["verify-exact", own, "--no-training", "--max-side", "64"]) == 1
    assert "inexact" in capsys.readouterr().out


def test_ill_conditioned_is_a_failure_with_its_sentence(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where rounding alone moves lone images far, the status is 1 and the reason and the way out are said."""
    words = ["own_network:Chaotic", "--no-training", "--max-side", "64"]
    assert main(["verify-exact", own, *words]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "Chaotic is ill-conditioned: rounding moves even images alone so far" in out
    assert "use other weights" in out
    assert main(["verify-exact", *words, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["models"][0]["status"] == "ill-conditioned"
    assert main(["verify-exact", *words, "--dtype", "float32"]) == 1
    assert "judge it in float64" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs one or more networks"),
        (["no_such_module_here:make"], "given as package.module:function"),
        (["own_network:number"], "must make a torch.nn.Module, but makes a int"),
        (["test_resnet", "--sizes", "64"], "sizes must be heights and widths"),
    ],
)
def test_mistakes(own: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each mistake is one sentence and status 1, or 2 where nothing is to be verified."""
    assert main(["verify-exact", *words]) == (1 if words else 2)
    assert message in capsys.readouterr().err
