"""Settings and arguments are checked by their annotations, in one place and in one sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.demo.materials import MaterialsConfig
from unsquare.errors import ConfigError, UsageError
from unsquare.plan.config import Limits
from unsquare.settings import PixelCount, Range, changed, check_settings, checked, checks_arguments, from_text, received
from unsquare.shapes import Geometry
from unsquare.training.config import TrainConfig, from_toml, to_toml


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One setting of each kind."""

    whole: Annotated[int, Range(1, 9)] = 1
    number: Annotated[float, Range(0, below=1)] = 0.0
    perhaps: Annotated[int, Range(1)] | None = None
    choice: Literal["left", "right"] = "left"
    switch: bool = False
    text: str = ""
    path: Path | None = None
    several: Annotated[tuple[int, ...], Range(1, 4)] = (1,)

    def __post_init__(self) -> None:
        check_settings(self)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"whole": "3"}, "whole must be a whole number from 1 to 9, but is '3'."),
        ({"whole": True}, "whole must be a whole number from 1 to 9, but is True."),
        ({"whole": 1.5}, "whole must be a whole number from 1 to 9, but is 1.5."),
        ({"whole": math.inf}, "whole must be a whole number from 1 to 9, but is inf."),
        ({"whole": 0}, "whole must be at least 1, but is 0."),
        ({"whole": 10**5000}, "whole must be at most 9, but is a number of thousands of digits."),
        ({"number": math.nan}, "number must be a finite number of at least 0 and below 1, but is nan."),
        ({"number": 10**400}, "number must be a finite number of at least 0 and below 1, but is 10000"),
        ({"number": 1}, "number must be below 1, but is 1.0."),
        ({"perhaps": -1}, "perhaps must be at least 1, but is -1."),
        ({"perhaps": "x"}, "perhaps must be a whole number of at least 1 or None, but is 'x'."),
        ({"choice": "lefd"}, "choice must be one of left, right, but is 'lefd'; did you mean left?"),
        ({"choice": np.zeros(3)}, "choice must be one of left, right, but is of type ndarray."),
        ({"switch": 1}, "switch must be True or False, but is 1."),
        ({"text": b"x"}, "text must be a string, but is b'x'."),
        ({"path": ""}, "path must be a path or None, but is ''."),
        ({"path": "a\0b"}, "path must be a path"),
        ({"path": 3}, "path must be a path or None, but is 3."),
        ({"several": "12"}, "several must be a list, each item a whole number from 1 to 4, but is '12'."),
        ({"several": [1, 5]}, "several must be at most 4, but is 5."),
        ({"several": {1}}, "several must be a list"),
    ],
)
def test_a_wrong_value_is_named_with_the_rule(settings: dict[str, Any], message: str) -> None:
    """The sentence has the setting, what it may be, and what was received, on one line."""
    with pytest.raises(ConfigError) as caught:
        Sample(**settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_what_means_the_same_is_taken() -> None:
    """NumPy's numbers, whole floats, whole numbers for floats, texts for paths and lists become the annotated type."""
    sample = Sample(
        whole=np.int64(3),
        number=np.float32(0.5),
        perhaps=16e6,
        switch=np.bool_(True),
        path="a/b",
        several=[np.uint8(1), 2.0],
    )
    assert sample == Sample(whole=3, number=0.5, perhaps=16_000_000, switch=True, path=Path("a/b"), several=(1, 2))
    assert type(sample.whole) is int
    assert type(sample.number) is float
    assert type(sample.switch) is bool
    assert type(sample.several[0]) is int
    assert Sample(number=0).number == 0.0
    assert Sample(number=Fraction(1, 2)).number == 0.5


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.complex_numbers(),
    st.text(),
    st.binary(),
    st.lists(st.integers()),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.just(object()),
    st.just(np.arange(3)),
    st.builds(np.float64, st.floats()),
)


@given(
    st.sampled_from(
        [(part.name, f.name) for part in fields(TrainConfig) for f in fields(getattr(TrainConfig(), part.name))]
    ),
    ANYTHING,
)
def test_every_setting_of_a_run_takes_a_value_or_refuses_it(name: tuple[str, str], value: Any) -> None:
    """No value of any type gets past, or raises anything but a sentence; what is taken survives the run's TOML file."""
    part, setting = name
    try:
        settings = changed(getattr(TrainConfig(), part), {setting: value})
    except ConfigError as error:
        said = str(error)
    else:
        config = changed(TrainConfig(), {part: settings})
        assert from_toml(to_toml(config), "file") == config
        said = ""
    assert "\n" not in said


@pytest.mark.parametrize("kind", [*(f.default_factory for f in fields(TrainConfig)), Limits, MaterialsConfig])
def test_every_number_among_the_settings_has_bounds(kind: type) -> None:
    """A setting that is a number says in its annotation from where to where it may be."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if re.search(r"\b(int|float)\b", str(hint)):
            assert "Range(" in str(hint), name


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        *(("16MP", 16_000_000), (16e6, 16_000_000), (16_000_000, 16_000_000), (" 2.5 Mp ", 2_500_000)),
        *(("1_000kP", 1_000_000), ("640kP", 640_000), ("2 gp", 2_000_000_000), ("4096px", 4096), ("0.3MP", 300_000)),
    ],
)
def test_pixels_may_have_a_unit(given: Any, expected: int) -> None:
    """Python, TOML and flags take the same units for a number of pixels, and for nothing else."""
    assert from_text(PixelCount, str(given), "x") == expected
    assert Geometry(max_pixels=given).max_pixels == expected
    assert type(Geometry(max_pixels=given).max_pixels) is int
    shown = f'"{given}"' if isinstance(given, str) else given
    assert from_toml(f"[geometry]\nmax_pixels = {shown}\n", "x").geometry.max_pixels == expected
    with pytest.raises(ConfigError, match="min_side must be a whole number"):
        Geometry(min_side="16MP")


WRONG_PIXELS = ["16MB", "16e6", "3", "MP", "-1MP", "1.5px", "1e3MP", "", "0MP", "9" * 40 + "GP", "nan", "1e400"]


@pytest.mark.parametrize("wrong", WRONG_PIXELS)
def test_what_is_no_number_of_pixels_is_refused(wrong: str) -> None:
    """Other units, fractions of a pixel, and more than any picture has."""
    with pytest.raises(ConfigError, match="max_pixels must be"):
        Geometry(max_pixels=wrong)


def test_texts_of_flags_are_read_by_their_annotation() -> None:
    """Whatever a setting is, its text gives the value that Python would be given."""
    for hint, text, value in (
        (int, "16_000", 16_000),
        (int, "1e3", 1000),
        (float, "1", 1.0),
        (float | None, "None", None),
        (float | None, "none", None),
        (str | None, "None", None),
        (str | None, "none", "none"),
        (str, "3", "3"),
        (Path, "a/b", Path("a/b")),
        (Literal["none", "a"], "none", "none"),
        (tuple[int, ...], ["1", "2e0"], (1, 2)),
        (tuple[Path, ...], ["1", "b"], (Path("1"), Path("b"))),
    ):
        found = from_text(hint, text, "x")
        assert (found, type(found)) == (value, type(value))
    wrong = ((int, "many", UsageError), (int, "1.5", ConfigError), (tuple[int, ...], ["a"], UsageError))
    for hint, text, kind in wrong:
        with pytest.raises(ConfigError) as caught:
            from_text(hint, text, "x")
        assert type(caught.value) is kind


def test_names_of_other_trainers_are_answered_with_ours() -> None:
    """In Python and TOML as for flags; a name whose meaning is no setting here gets the usual answer."""
    with pytest.raises(ConfigError, match=r"no setting 'imgsz' here; pictures keep their size.*max_pixels bounds it"):
        changed(Geometry(), {"imgsz": 640})
    with pytest.raises(ConfigError, match=r"table optimizer: .*no setting 'wd' here; did you mean weight_decay\?"):
        from_toml("[optimizer]\nwd = 0.1\n", "x")
    with pytest.raises(ConfigError, match="no setting 'imgsz' here; the names are whole"):
        changed(Sample(), {"imgsz": 640})


def test_a_name_that_is_not_known_is_answered_with_those_near() -> None:
    """A typo is told from a name far from all."""
    with pytest.raises(ConfigError, match=r"no setting 'whoel' here; did you mean whole\?"):
        changed(Sample(), {"whoel": 3})
    with pytest.raises(ConfigError, match=r"the names are whole, number, perhaps"):
        changed(Sample(), {"zzz": 3})


@checks_arguments
def _function(
    source: Path | str,
    settings: Sample | None = None,
    rows: Iterable[int] = (),
    say: Callable[[str], None] = print,
    *,
    times: Annotated[int, Range(1)] = 1,
    anything: Any = None,
    **others: int,
) -> tuple[Any, ...]:
    """The arguments as they arrive."""
    return source, settings, rows, say, times, anything, others


def test_arguments_are_checked_as_settings_are() -> None:
    """Annotated arguments arrive as their type; those that cannot be checked, and keywords, arrive as they are."""
    assert _function("a", None, [1], times=np.int8(2), anything={}, other="x") == (
        *(Path("a"), None, [1], print, 2, {}),
        {"other": "x"},
    )
    assert is_dataclass(_function(Path("a"), Sample())[1])
    for wrong, message in (
        ({"source": ""}, "source must be a path, but is ''"),
        ({"settings": {}}, "settings must be a Sample or None, but is {}"),
        ({"settings": Sample}, "settings must be a Sample or None, but is the class Sample itself"),
        ({"rows": 3}, "rows must be a list or another iterable, but is 3"),
        ({"rows": "abc"}, "rows must be a list or another iterable, but is 'abc'"),
        ({"say": "x"}, "say must be a function, but is 'x'"),
        ({"times": 0}, "times must be at least 1, but is 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            _function(**{"source": "a", **wrong})
    with pytest.raises(TypeError, match="missing"):
        _function()


def test_what_was_received_is_shown_on_one_short_line() -> None:
    """Long and large values are cut; what has no short form is named by its type."""
    assert len(received(list(range(1000)))) < 100
    assert "\n" not in received(("a", np.zeros((3, 3))))
    assert received(np.float64(0.5)) == "0.5"
    assert received(object()) == "of type object"
    assert received([10**5000]) == "a number of thousands of digits"
    assert checked(int, 3.0, "x") == 3
