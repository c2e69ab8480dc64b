"""Flags from frozen dataclasses: the same classes that Python and TOML use."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from unsquare.plan.config import MOST_BUDGET_PIXELS
from unsquare.settings import MOST_WORKERS, Range, check_settings, checked

Arguments = TypeVar("Arguments")

_registry = ConstructorRegistry()
_SURROGATE = re.compile("[\ud800-\udfff]")


@_registry.primitive_rule
def _whole_number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[int] | None:
    """Whole numbers may be written as 16e6."""
    if info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: _to_int(words[0]),
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


@_registry.primitive_rule
def _path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    """Paths may not be empty, as an unset variable of a shell makes them."""
    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: checked(Path, words[0], "A file or folder"),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [os.fspath(value)],
    )


def _to_int(word: str) -> int:
    if word.lstrip("+-").isdigit():
        return int(word)
    number = float(word)
    if not number.is_integer():
        raise ValueError(f"{word} is not a whole number")
    return int(number)


@dataclass(frozen=True, kw_only=True)
class DeviceArguments:
    """Where a trained run is used; what is left out is as in the run's own settings."""

    memory: str | None = None
    """The memory budget, such as 4GiB or 80%; left out, what is free."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] | None = None
    """The device."""
    precision: Literal["auto", "bf16-mixed", "32-true"] | None = None
    """The arithmetic."""
    budget_pixels: Annotated[int, Range(1, MOST_BUDGET_PIXELS)] | None = None
    """The most computed pixels of a micro-batch; pinned, nothing is probed."""
    workers: Annotated[int, Range(1, MOST_WORKERS)] | None = None
    """Threads that decode images."""

    def given(self) -> dict[str, Any]:
        """The settings that were given."""
        return {name: value for name, value in vars(self).items() if value is not None}


def parse(
    kind: type[Arguments],
    arguments: Sequence[str],
    *,
    command: str,
    example: str,
    default: Arguments | None = None,
) -> Arguments:
    """Parse and check a command's arguments; prints help or the mistake and exits where that is what they ask for.

    Args:
        kind: the dataclass of the arguments; its docstring is the help.
        arguments: the words after the command.
        command: the command's name.
        example: a runnable example, the last line of the help.
        default: the values of what is not given; None takes the class's own.

    Raises:
        ConfigError: a value is out of range.
    """
    try:
        given = tyro.cli(
            kind,
            prog=f"unsquare {command}",
            args=list(arguments),
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.PositionalMetavarFromFieldName),
            registry=_registry,
            default=tyro.MISSING_NONPROP if default is None else default,
        )
    except SystemExit as stop:
        if not stop.code:
            print(f"example:\n  {example}")
        raise
    check_settings(given)
    return given


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object on standard output."""
    # A name that is not UTF-8 would be half a character, which most readers of JSON refuse: it is spelled out.
    text = json.dumps(values, ensure_ascii=False)
    print(_SURROGATE.sub(lambda found: rf"\\u{ord(found[0]):04x}", text))


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) that shows a bar on standard error, where a person is watching."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
