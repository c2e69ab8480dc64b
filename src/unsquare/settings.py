"""Checks settings and arguments against their annotations: one place for Python, TOML and flags alike.

A setting's annotation says its type, and `Range` in `Annotated` which numbers it may be. Every dataclass of settings
calls `check_settings` in `__post_init__`, and public functions are decorated with `checks_arguments`, so whoever makes
the values, the same sentence names what is wrong. What means the same is accepted and becomes the annotated type:
NumPy's numbers, whole floats such as 16e6 for whole numbers, whole numbers for floats, texts for paths, lists for
tuples, and texts such as 16MP for numbers of pixels (`PixelCount`). No float may be infinite or not a number. A flag is
a text, so `from_text` reads numbers of every kind first. What else a function is given (arrays, tensors) it checks
itself.

msgspec and cattrs were the alternatives: msgspec ignores names of a dataclass that it does not know and takes no NumPy
numbers, cattrs calls the type, so that True and "3" pass as numbers, and both need every sentence written again.
Reading TOML is twenty lines on top of this (`training.config.from_toml`).
"""

from __future__ import annotations

import collections.abc
import difflib
import functools
import inspect
import numbers
import operator
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np

from unsquare.errors import ConfigError, UsageError
from unsquare.synonyms import synonym

Config = TypeVar("Config")
Function = TypeVar("Function", bound=Callable[..., Any])

MOST_EPOCHS = 1_000_000
"""More is a typo: at a second an epoch, such a run would take eleven days."""
MOST_WORKERS = 1024
"""Threads of one kind: each takes memory, and no machine has as many cores to spare."""

_OTHERS = {"gpu": "cuda", "stream": "tile"}
"""Values by the names that others give them."""
_WRONG = object()
"""What is no value of a type becomes this."""
# What file systems take; a longer name fails wherever it is looked at.
_LONGEST_NAME, _LONGEST_PATH = 255, 4095
_MOST_SHOWN = 80
"""Characters of a received value that an error shows."""
_PIXELS = re.compile(r"([0-9][0-9_]{0,30}(?:\.[0-9]{1,30})?)\s*([kmg]?)(?:p|px|pixels)", re.IGNORECASE)
_EXPONENTS = {"": 0, "k": 3, "m": 6, "g": 9}


@dataclass(frozen=True)
class Range:
    """Which numbers a setting may be, from `least` to `most`; `above` and `below` themselves are outside."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"from {_plain(self.least)} to {_plain(self.most)}"
        bounds = (("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below))
        text = " and ".join(f"{word} {_plain(bound)}" for word, bound in bounds if bound is not None)
        return f"of {text}" if text.startswith("at") else text

    def broken(self, value: float) -> str:
        """The rule that a number breaks, such as "at least 1"; empty where it breaks none."""
        for holds, word, bound in (
            (self.least is None or value >= self.least, "at least", self.least),
            (self.above is None or value > self.above, "above", self.above),
            (self.most is None or value <= self.most, "at most", self.most),
            (self.below is None or value < self.below, "below", self.below),
        ):
            if not holds:
                return f"{word} {_plain(bound)}"
        return ""


class _PixelUnit:
    """Marks numbers that may be texts such as 16MP."""


PixelCount = Annotated[int, _PixelUnit()]
"""A number of pixels: 16_000_000, 16e6, or a text with a unit such as `16MP`, `640kP` or `4096px`."""


def _plain(bound: float | None) -> str:
    return "" if bound is None else f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


Seed = Annotated[int, Range(0, (1 << 63) - 1)]
"""What TOML holds as a whole number, and PyTorch and NumPy take as a seed."""


def check_settings(settings: Any) -> None:
    """Check every field of a dataclass, and give it the annotated type where it has another of the same meaning.

    Raises:
        ConfigError: a value is of another type, or out of range.
    """
    kind: Callable[..., Any] = type(settings)
    hints = field_types(kind)
    for field in fields(settings):
        given = getattr(settings, field.name)
        value = checked(hints[field.name], given, field.name)
        if value is not given:
            object.__setattr__(settings, field.name, value)  # frozen for everyone else


def checks_arguments(function: Function) -> Function:
    """A function whose annotated arguments are checked before it runs, as settings are."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        hints = field_types(function)
        for name, value in given.arguments.items():
            kind = signature.parameters[name].kind
            if name in hints and kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                given.arguments[name] = checked(hints[name], value, name)
        return function(*given.args, **given.kwargs)

    return typing.cast(Function, call)


def changed(settings: Config, values: Mapping[str, Any]) -> Config:
    """The settings with some changed, each by its name.

    Raises:
        ConfigError: a setting does not exist, or may not have that value.
    """
    known = [field.name for field in fields(settings)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ConfigError(f"There is no setting {name!r} here; {meant(name, known)}")
    return replace(settings, **values)  # type: ignore[type-var]


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a sentence on an unknown name: what it means elsewhere, the nearest names, or all."""
    known = list(known)
    if hint := synonym(str(name), known):
        return hint
    close = difflib.get_close_matches(str(name), known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"the names are {', '.join(known)}."


def checked(hint: Any, value: Any, name: str) -> Any:
    """A value as its annotation wants it.

    Raises:
        ConfigError: it is of another type, or out of range.
    """
    found = _as(hint, value, name)
    if found is _WRONG:
        raise ConfigError(_refusal(hint, value, name, received(value)))
    return found


def from_text(hint: Any, text: str | Sequence[str], name: str) -> Any:
    """The value that a text stands for where a setting can be given as one, or several texts for a list.

    Raises:
        UsageError: it is no text of that type.
        ConfigError: it is a number that the setting may not be.
    """
    is_number = takes(hint, int) or takes(hint, float)
    if takes(hint, type(None)) and (text == "None" or (is_number and text == "none")):
        return None
    read = _read if is_number else str
    value = read(text) if isinstance(text, str) else [read(each) for each in text]
    found = _as(hint, value, name)
    if found is _WRONG:
        words = [each for each in ([value] if isinstance(text, str) else value) if isinstance(each, str)]
        kind = UsageError if words else ConfigError
        shown = received(text) if words or not isinstance(text, str) else text[:_MOST_SHOWN]
        raise kind(_refusal(hint, value, name, shown))
    return found


def literals(hint: Any) -> list[str]:
    """The texts that a type takes by name."""
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    return [text for option in typing.get_args(hint) for text in literals(option)]


def _refusal(hint: Any, value: Any, name: str, shown: str) -> str:
    close = ""
    if isinstance(value, str) and (options := literals(hint)):
        near = [_OTHERS[value]] if _OTHERS.get(value) in options else difflib.get_close_matches(value, options, n=1)
        close = "".join(f"; did you mean {word}?" for word in near)
    return f"{name} must be {_words(hint)}, but is {shown}{close or '.'}"


def _read(text: str) -> Any:
    """The number that a text stands for; the text itself where it is none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:  # int: not whole, or of thousands of digits
            pass
    return text


def _read_pixels(text: str) -> Any:
    """The number that a text with a unit stands for; the text itself where it is none."""
    found = _PIXELS.fullmatch(text.strip())
    if found is None:
        return text
    number = Decimal(found[1]).scaleb(_EXPONENTS[found[2].lower()])
    return int(number) if number == number.to_integral_value() else float(number)


def takes(hint: Any, kind: type) -> bool:
    """Whether a value of a kind, alone or in a list, can be one of a type; what a function takes is no value of it."""
    if kind in (hint, typing.get_origin(hint)):
        return True
    if typing.get_origin(hint) is collections.abc.Callable:
        return False
    return any(takes(option, kind) for option in typing.get_args(hint) if not isinstance(option, str))


def is_pixels(hint: Any) -> bool:
    """Whether a value of a type may be a number of pixels."""
    parts = (*getattr(hint, "__metadata__", ()), *typing.get_args(hint))
    return any(isinstance(part, _PixelUnit) or is_pixels(part) for part in parts if not isinstance(part, str))


def received(value: Any) -> str:
    """A received value on one line of an error: itself where it is short, else what it is."""
    if isinstance(value, Path):
        return f"'{value}'"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (str, bytes, int, float, complex, list, tuple, dict, set)) or value is None:
        try:
            text = " ".join(repr(value).split())
        except ValueError:  # Python writes no number of more than 4,300 digits
            return "a number of thousands of digits"
        return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    return f"of type {type(value).__name__}"


def is_utf8(text: str) -> bool:
    """Whether a text can be written to a file: names of files that are no UTF-8 cannot."""
    return text.isascii() or text == text.encode("utf-8", "ignore").decode("utf-8")


@functools.cache
def field_types(owner: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a dataclass's fields or of a function's arguments, as types."""
    return typing.get_type_hints(owner, include_extras=True)


def _as(hint: Any, value: Any, name: str) -> Any:
    """The value as the type wants it, or `_WRONG`; out of range is an error at once."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        if isinstance(value, str) and is_pixels(hint):
            value = _read_pixels(value)
        return _in_ranges(_as(hint.__origin__, value, name), hint.__metadata__, name)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        # A text that is no path must not pass as the text that stands for one.
        found = (_as(option, value, name) for option in options if not (option is str and Path in options))
        return next((each for each in found if each is not _WRONG), _WRONG)
    if origin is Literal:
        return value if isinstance(value, str) and value in typing.get_args(hint) else _WRONG
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return _WRONG
        kinds = typing.get_args(hint)
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        parts = tuple(_as(kind, part, name) for kind, part in zip(kinds, value))
        return _WRONG if len(kinds) != len(value) or any(part is _WRONG for part in parts) else parts
    if origin is collections.abc.Callable:
        return value if callable(value) else _WRONG
    if origin is collections.abc.Iterable:
        return value if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else _WRONG
    if hint is type(None):
        return value if value is None else _WRONG
    if hint in _SIMPLE:
        return _SIMPLE[hint](value)
    if isinstance(hint, type) and origin is None:
        return value if isinstance(value, hint) else _WRONG
    return value


def _in_ranges(value: Any, ranges: tuple[Any, ...], name: str) -> Any:
    numbers_of = value if isinstance(value, tuple) else (value,)
    for each in ranges if value is not _WRONG and value is not None else ():
        for number in numbers_of if isinstance(each, Range) else ():
            if rule := each.broken(number):
                raise ConfigError(f"{name} must be {rule}, but is {received(number)}.")
    return value


def _as_bool(value: Any) -> Any:
    return bool(value) if isinstance(value, (bool, np.bool_)) else _WRONG


def _as_int(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return _WRONG
    if isinstance(value, (float, np.floating)):
        return int(value) if isfinite(value) and float(value).is_integer() else _WRONG
    return operator.index(value) if isinstance(value, numbers.Integral) else _WRONG


def _as_float(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        return _WRONG
    try:
        number = float(value)
    except OverflowError:
        return _WRONG
    return number if isfinite(number) else _WRONG


def _as_str(value: Any) -> Any:
    return str(value) if isinstance(value, str) else _WRONG


def _as_path(value: Any) -> Any:
    if not isinstance(value, (str, os.PathLike)):
        return _WRONG
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text or len(text) > _LONGEST_PATH:
        return _WRONG
    path = Path(text)
    return path if all(len(os.fsencode(part)) <= _LONGEST_NAME for part in path.parts) else _WRONG


_SIMPLE: dict[Any, Callable[[Any], Any]] = {
    bool: _as_bool,
    int: _as_int,
    float: _as_float,
    str: _as_str,
    Path: _as_path,
    Any: lambda value: value,
}
_NAMES: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "a string",
    Path: "a path",
    collections.abc.Callable: "a function",
    collections.abc.Iterable: "a list or another iterable",
    type(None): "None",
}


def _words(hint: Any) -> str:
    """What a type takes, for people."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        ranges = [str(each) for each in hint.__metadata__ if isinstance(each, Range)]
        example = ["(such as 16MP)"] if is_pixels(hint) else []
        return " ".join([_words(hint.__origin__), *ranges, *example])
    if origin in (typing.Union, types.UnionType):
        words = dict.fromkeys(_words(option) for option in arguments if not (option is str and Path in arguments))
        return " or ".join(words)
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    if origin is tuple:
        number = "" if arguments[-1] is Ellipsis else f" of {len(arguments)}"
        return f"a list{number}, each item {_words(arguments[0])}"
    if origin in _NAMES:
        return _NAMES[origin]
    return _NAMES.get(hint) or f"{'an' if hint.__name__[0] in 'AEIOU' else 'a'} {hint.__name__}"
