"""Flags are read from dataclasses: their texts, their groups, and what is said of those that do not exist."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest

from unsquare.cli.arguments import ARGUMENTS, FindLrArguments, PlanArguments, ScanArguments, TrainArguments
from unsquare.cli.parsing import Arguments, Positional, parse
from unsquare.errors import ConfigError, UsageError
from unsquare.settings import PixelCount, Range
from unsquare.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Settings within."""

    max_pixels: Annotated[PixelCount, Range(1)] = 500_000
    """Largest size. Reasons are for those who ask."""
    mirror: bool = True
    """Mirror with probability 50 %."""


@dataclass(frozen=True, kw_only=True)
class SampleArguments(Arguments):
    """One flag of each kind.

    A second paragraph.
    """

    COMMAND: ClassVar[str] = "sample"
    EXAMPLE: ClassVar[str] = "unsquare sample photos"

    source: Positional[Path]
    """Where the pictures are."""
    more: Positional[tuple[Path, ...]] = ()
    """Further places."""
    count: Annotated[int, Range(0, 10**9)] | None = None
    """How many."""
    rate: float = 0.5
    """Which rate, as
    long as `count` is left out."""
    levels: tuple[int, ...] = (1, 2)
    """Levels."""
    kind: Literal["left", "right"] = "left"
    """Which side."""
    json: bool = False
    """Print JSON."""
    geometry: Inner = field(default_factory=Inner)


def given(line: str, defaults: dict[str, Any] | None = None) -> SampleArguments:
    """The arguments of a line."""
    return parse(SampleArguments, line.split(), defaults)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a", {"source": Path("a"), "count": None, "rate": 0.5}),
        ("a b --json c", {"more": (Path("b"), Path("c")), "json": True}),
        ("--json --no-json a", {"json": False}),
        ("a --count 1e6", {"count": 1_000_000}),
        ("a --count=16_000", {"count": 16_000}),
        ("a --count none", {"count": None}),
        ("a --rate -1", {"rate": -1.0}),
        ("a --levels 1 2e0 3", {"levels": (1, 2, 3)}),
        ("a --kind right", {"kind": "right"}),
        ("a --max_pixels 16MP", {"geometry": Inner(max_pixels=16_000_000)}),
        ("a --max-pixels 2.5mp --no-mirror", {"geometry": Inner(max_pixels=2_500_000, mirror=False)}),
        ("a --max-pixels 640kp", {"geometry": Inner(max_pixels=640_000)}),
        ("a -- --json", {"more": (Path("--json"),), "json": False}),
    ],
)
def test_texts_become_values(line: str, expected: dict[str, Any]) -> None:
    """Numbers in every common form, lists, switches and their opposites, wherever they stand."""
    found = given(line)
    assert {name: getattr(found, name) for name in expected} == expected


def test_flags_change_what_was_there() -> None:
    """What is not given stays as the defaults that were handed in have it, inside groups too."""
    defaults = {"rate": 0.1, "geometry": Inner(max_pixels=9, mirror=False)}
    found = given("a --max-pixels 7", defaults)
    assert (found.rate, found.geometry) == (0.1, Inner(max_pixels=7, mirror=False))


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        (
            "a --count many",
            UsageError,
            "--count must be a whole number from 0 to 1,000,000,000 or None, but is 'many'.",
        ),
        ("a --count 1.5", ConfigError, "--count must be a whole number .*, but is 1.5"),
        ("a --count -1", ConfigError, "--count must be at least 0, but is -1"),
        ("a --count 1e400", ConfigError, "but is 1e400"),
        ("a --max-pixels 16MB", UsageError, r"--max-pixels must be a whole number of at least 1 \(such as 16MP\)"),
        ("a --max-pixels 0.5px", UsageError, "--max-pixels must be a whole number"),
        ("a --kind lefd", UsageError, "--kind must be one of left, right, but is 'lefd'; did you mean left?"),
        ("a --levels x", UsageError, "--levels must be a list"),
        ("a --rate", UsageError, "--rate: expected one argument; `unsquare sample --help`"),
        ("", UsageError, "SOURCE"),
        ("a --cuont 3", UsageError, "There is no flag --cuont here; did you mean --count?"),
        ("a --zzz", UsageError, "There is no flag --zzz here; `unsquare sample --help` lists them"),
        ("a --imgsz 3", UsageError, "There is no flag --imgsz here; `unsquare sample --help` lists them"),
    ],
)
def test_mistakes_are_one_sentence(line: str, kind: type[Exception], message: str) -> None:
    """The flag, the rule, what was received; words that are no value at all are wrong usage."""
    with pytest.raises(ConfigError, match=message) as caught:
        given(line)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "hint"),
    [
        (
            "--batch-size",
            "did you mean --step-images, the images of one optimizer step? Micro-batches are sized by memory.",
        ),
        ("-b", "did you mean --step-images"),
        ("--imgsz", "pictures keep their size and aspect ratio; --max-pixels bounds it"),
        ("--img-size=3", "--max-pixels bounds it"),
        ("--input_size", "--max-pixels bounds it"),
        ("--early-stopping", "did you mean --patience?"),
        ("--learning-rate", "did you mean --lr?"),
        ("--lr0", "did you mean --lr?"),
        ("--model", "did you mean --backbone?"),
        ("--arch", "did you mean --backbone?"),
        ("--amp", "did you mean --precision bf16-mixed?"),
        ("-j", "did you mean --workers?"),
        ("--data", "the pictures are the first argument, SOURCE."),
        ("--project", "did you mean --out?"),
        ("--name", "did you mean --out?"),
        ("--output", "did you mean --out?"),
        ("--epoch", "did you mean --epochs?"),
        ("--opt", "did you mean --optimizer?"),
        ("--wd", "did you mean --weight-decay?"),
        ("--lr-warmup-epochs", "did you mean --warmup-epochs?"),
        ("--drop", "did you mean --dropout?"),
        ("--lowest-rung", "did you mean --strategy?"),
        ("--highest-rung", "did you mean --max-strategy?"),
        ("--colour-jitter", "did you mean --color-jitter?"),
        ("--aa", "did you mean --auto-augment?"),
        ("--reprob", "did you mean --erasing?"),
        ("--mixup-alpha", "did you mean --mixup?"),
    ],
)
def test_flags_of_other_trainers_get_a_hint(flag: str, hint: str) -> None:
    """Names of timm, fastai, Ultralytics, torchvision and earlier releases are answered with ours."""
    with pytest.raises(UsageError) as caught:
        parse(TrainArguments, ["photos", "--out", "run", flag, "3"])
    assert str(caught.value).startswith(f"There is no flag {flag.partition('=')[0].replace('_', '-')} here; ")
    assert hint in str(caught.value)


def helped(kind: type[Arguments], capsys: pytest.CaptureFixture[str], **options: bool) -> str:
    """The help of a command."""
    with pytest.raises(SystemExit) as stop:
        parse(kind, ["--help"], **options)
    assert not stop.value.code
    return capsys.readouterr().out


def test_help_is_the_first_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On one line, with names as flags, choices, and the default as it may be written; reasons come with --verbose."""
    monkeypatch.setenv("COLUMNS", "100")
    text = helped(SampleArguments, capsys)
    assert text.startswith("usage: unsquare sample SOURCE MORE ... [options]\n\nOne flag of each kind.\n\nA second")
    for line in (
        "  --count N  How many\n",
        "  --rate X  Which rate, as long as --count is left out (default: 0.5)\n",
        "  --levels N [N ...]  Levels (default: 1 2)\n",
        "  --kind NAME  Which side (one of left, right; default: left)\n",
        "  --json  Print JSON\n",
        "picture size:\n  --max-pixels PIXELS  Largest size (default: 0.5MP)\n",
        "  --[no-]mirror  Mirror with probability 50 % (default: on)\n",
    ):
        assert line in re.sub(r"(?<=\S) {2,}", "  ", text)
    assert "Reasons" not in text
    assert "Reasons are for those who ask" in helped(SampleArguments, capsys, whole_help=True)


def test_flags_of_a_run_that_do_nothing_are_taken_but_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """The range test of a learning rate takes the flags of the run that it is for."""
    assert "--patience" not in helped(FindLrArguments, capsys)
    assert parse(FindLrArguments, ["photos", "--patience", "3"]).settings.saving.patience == 3


def test_training_opens_with_the_most_used_flags(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten flags of a line each on a terminal of 80 columns, then groups named for what they do."""
    monkeypatch.setenv("COLUMNS", "80")
    text = helped(TrainArguments, capsys)
    options = re.search(r"\noptions:\n(.*?)\n\n", text, re.DOTALL)
    assert options is not None
    lines = options[1].splitlines()
    assert [line.split()[0] for line in lines[:10]] == [
        *("--out", "--epochs", "--backbone", "--pretrained", "--weights", "--lr", "--max-pixels", "--memory"),
        *("--resume", "--config"),
    ]
    assert all(re.match(r"  --\S+.{3,}\S", line) for line in lines[:10])
    assert re.findall(r"^(\S.*):$", text, re.MULTILINE) == [
        *("arguments", "options", "task", "picture size", "augmentation", "batches", "network", "optimizer"),
        *("learning rate", "progressive resolution", "device and memory", "evaluation and checkpoints", "example"),
    ]


def every_field(kind: Any) -> list[tuple[str, Any]]:
    """The names and defaults of a dataclass's fields, and of those within."""
    found = []
    for each in fields(kind):
        value = each.default_factory() if callable(each.default_factory) else each.default
        found += every_field(type(value)) if is_dataclass(value) else [(each.name, value)]
    return found


@pytest.mark.parametrize("kind", ARGUMENTS.values(), ids=list(ARGUMENTS))
def test_each_flag_has_one_line_of_help(
    kind: type[Arguments], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No flag that does something is without help, and none has the name of another of the same command."""
    monkeypatch.setenv("COLUMNS", "400")
    text = helped(kind, capsys)
    names = [name for name, _ in every_field(kind)]
    assert len(names) == len(set(names))
    for name in set(names) - set(kind.UNLISTED):
        spelled = rf"({name.upper()}|--(\[no-\])?{name.replace('_', '-')})"
        assert re.search(rf"^  {spelled}\b.*\s\s+[A-Za-z]\S+( \S+)+$", text, re.MULTILINE), name


def test_all_commands_speak_of_the_same_settings() -> None:
    """A flag of planning is that of training, with the same default."""
    train, plan = dict(every_field(TrainConfig)), dict(every_field(PlanArguments))
    shared = {name for name in plan if name in train} - {"budget_pixels", "launch_pixels", "turns"}
    assert {name: plan[name] for name in shared} == {name: train[name] for name in shared}
    assert parse(ScanArguments, ["photos"]).out == Path("index.parquet")


@pytest.mark.parametrize(
    ("kind", "words", "name", "value"),
    [
        ("scan", ["--", "-pics"], "source", Path("-pics")),
        ("report", ["--", "-run"], "run", Path("-run")),
        ("scan", ["-1x"], "source", Path("-1x")),
        ("evaluate", ["--", "run", "-pics"], "source", Path("-pics")),
        ("predict", ["run", "--", "-h"], "images", (Path("-h"),)),
        ("predict", ["--top", "3", "--", "-run", "-a.png"], "images", (Path("-a.png"),)),
        ("predict", ["--json", "--", "run", "--json"], "images", (Path("--json"),)),
        ("predict", ["run", "-1.png", "-.png", "-_a.png"], "images", (Path("-1.png"), Path("-.png"), Path("-_a.png"))),
        ("train", ["--out", "x", "--", "--config"], "source", Path("--config")),
        ("train", ["pics", "--out", "none"], "out", Path("none")),
        ("evaluate", ["run", "pics", "--split", "none"], "split", "none"),
    ],
)
def test_names_may_look_like_flags_or_like_none(kind, words, name, value):
    """After `--` nothing is a flag, and before it no word that begins with a dash and no letter; `none` is a name."""
    assert getattr(parse(ARGUMENTS[kind], words), name) == value
