"""Flags from frozen dataclasses: the same classes that Python and TOML use.

A field is a flag, its docstring's first sentence is the flag's help, and a field that holds settings is a group of
flags. Values are checked by `settings.from_text`; argparse splits the words. tyro was here before: it names groups
after fields, shows docstrings whole and in lines of their own, and cannot show the most used flags first.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from unsquare.errors import UsageError
from unsquare.settings import field_types, from_text, is_pixels, literals, takes
from unsquare.synonyms import synonym


class Arguments:
    """The arguments of a command: the base of a dataclass, whose docstring describes the command."""

    COMMAND: ClassVar[str]
    EXAMPLE: ClassVar[str]
    """A line that can be run, the last of the help."""
    FIRST: ClassVar[tuple[str, ...]] = ()
    """Fields that the help shows first, whatever group they are of."""
    UNLISTED: ClassVar[tuple[str, ...]] = ()
    """Fields that the help leaves out: they are taken, since another command has them, and do nothing here."""


Given = TypeVar("Given", bound=Arguments)
_MARK = "\0"
"""Before a word that is no flag though it begins with a dash; no argument of a process can hold it."""
Value = TypeVar("Value")
_POSITIONAL, _PLAIN = "positional", "options"
Positional = Annotated[Value, _POSITIONAL]
"""A field that is given by its place in the command, without a flag."""

_TITLES = {
    "task": "task",
    "geometry": "picture size",
    "augment": "augmentation",
    "plan": "batches",
    "model": "network",
    "optimizer": "optimizer",
    "learning_rate": "learning rate",
    "resolution": "progressive resolution",
    "device": "device and memory",
    "saving": "evaluation and checkpoints",
    "limits": "limits of the machine",
    "changed_pictures": "evaluation and checkpoints",
}
"""Titles of groups of flags, by the field that holds them; other flags are plain options."""
_EVERYWHERE = {
    ("--verbose",): "Print more; with --help, details of each flag",
    ("-h", "--help"): "Show this help",
}
"""Flags of every command, which are taken care of before its own."""
_METAVARS = {"memory": "SIZE", "canvas": "HxW", "sizes": "HxW,...", "transform": "MODULE:NAME"}
_HELP_COLUMN = 26
_SENTENCE = re.compile(r"(?<=[.?!])\s")


@dataclass(frozen=True)
class _Flag:
    """A field as a flag."""

    place: tuple[str, ...]
    """The fields that lead to it, itself the last."""
    hint: Any
    help: str
    """The first sentence of its docstring, or all of it."""
    default: Any
    """`MISSING` where it must be given."""
    group: str

    @property
    def name(self) -> str:
        """The field's own name."""
        return self.place[-1]

    @property
    def is_positional(self) -> bool:
        """Whether it is given by its place, without its name."""
        return _POSITIONAL in getattr(self.hint, "__metadata__", ())

    def spelled(self) -> str:
        """The name as a user writes it."""
        return self.name.upper() if self.is_positional else f"--{self.name.replace('_', '-')}"

    def words(self) -> list[str]:
        """The words that stand for it in a command."""
        spelled = self.spelled()
        return [] if self.is_positional else [spelled, f"--no-{spelled[2:]}"] if self.hint is bool else [spelled]

    def metavar(self) -> str:
        """What its value is, in a word."""
        if is_pixels(self.hint):
            return "PIXELS"
        kinds = ((int, "N"), (float, "X"), (Path, "PATH"))
        return _METAVARS.get(self.name) or next((word for kind, word in kinds if takes(self.hint, kind)), "NAME")

    def placeholder(self) -> str:
        """A positional argument in the line that shows the usage."""
        name = f"{self.spelled()} ..." if takes(self.hint, tuple) else self.spelled()
        return name if self.default is MISSING or takes(self.hint, tuple) else f"[{name}]"


class _Formatter(argparse.HelpFormatter):
    """Help as wide as the terminal, with paragraphs kept apart."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=_HELP_COLUMN)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return getattr(action, "shown", None) or super()._format_action_invocation(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = inspect.cleandoc(text).split("\n\n")
        return "\n\n".join(textwrap.fill(" ".join(each.split()), width, initial_indent=indent) for each in paragraphs)


class _Parser(argparse.ArgumentParser):
    """Raises mistakes in place of printing them."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message[:1].upper()}{message[1:]}; `{self.prog} --help` lists the arguments.")


def parse(
    kind: type[Given],
    arguments: Sequence[str],
    defaults: Mapping[str, Any] | None = None,
    *,
    whole_help: bool = False,
) -> Given:
    """Parse and check a command's arguments; prints the help and exits where that is asked for.

    Args:
        kind: the dataclass of the arguments.
        arguments: the words after the command.
        defaults: values of fields that are not given; other fields, and None, take the class's own.
        whole_help: the help has whole docstrings, with reasons and details.

    Raises:
        UsageError: a flag does not exist, lacks its value, or has one of another type.
        ConfigError: a value is out of range.
    """
    flags = list(_flags_of(kind, defaults or {}, whole_help=whole_help))
    parser = _parser(kind, flags)
    if {"-h", "--help"} & set(before_separator(arguments)):
        print(f"{parser.format_help()}\nexample:\n  {kind.EXAMPLE}")
        raise SystemExit(0)
    found = vars(parser.parse_intermixed_args(_checked_words(arguments, flags, kind.COMMAND)))
    by_place = {".".join(flag.place): flag for flag in flags}
    values: dict[tuple[str, ...], Any] = {}
    for key, marked in found.items():
        flag, value = by_place[key], _unmarked(marked)
        values[flag.place] = value if isinstance(value, bool) else from_text(flag.hint, value, flag.spelled())
    return _built(kind, defaults or {}, values)


def _flags_of(
    kind: Any, default: Any, place: tuple[str, ...] = (), group: str = _PLAIN, *, whole_help: bool
) -> Iterator[_Flag]:
    hints, helps = field_types(kind), _docstrings_of(kind)
    for field in fields(kind):
        value, title = _default_of(field, default), _TITLES.get(field.name, group)
        if is_dataclass(value):
            yield from _flags_of(type(value), value, (*place, field.name), title, whole_help=whole_help)
        else:
            text = helps[field.name] if whole_help else _SENTENCE.split(helps[field.name])[0]
            yield _Flag((*place, field.name), hints[field.name], text.rstrip("."), value, title)


def _built(kind: type[Value], default: Any, values: Mapping[tuple[str, ...], Any]) -> Value:
    """The arguments with these values, each named by the fields that lead to it."""
    changes = {place[0]: value for place, value in values.items() if len(place) == 1}
    for field in fields(kind):  # type: ignore[arg-type]
        below = {place[1:]: value for place, value in values.items() if place[0] == field.name and len(place) > 1}
        if below:
            inner = _default_of(field, default)
            changes[field.name] = _built(type(inner), inner, below)
    return kind(**{**default, **changes}) if isinstance(default, Mapping) else replace(default, **changes)


def _default_of(field: Any, default: Any) -> Any:
    """The value of a field in another value of its class, or in a mapping that may have it."""
    if not isinstance(default, Mapping):
        return getattr(default, field.name)
    if field.name in default:
        return default[field.name]
    return field.default if field.default_factory is MISSING else field.default_factory()


def _docstrings_of(kind: Any) -> dict[str, str]:
    """What stands below each field of a dataclass."""
    (owner,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(owner, ast.ClassDef)
    found = {}
    for statement, after in zip(owner.body, [*owner.body[1:], None]):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            found[statement.target.id] = " ".join(str(text).split())
    return found


def _checked_words(arguments: Sequence[str], flags: Sequence[_Flag], command: str) -> list[str]:
    """The words of the command, with `--max_pixels` written as `--max-pixels` and those that are no flags marked.

    Raises:
        UsageError: there is no such flag; the message has what it may stand for.
    """
    known = {word for flag in flags for word in flag.words()}
    words = list(before_separator(arguments))
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if re.match(r"--?[A-Za-z]", name) and " " not in name:
            name = name.replace("_", "-")
            if name not in known:
                raise UsageError(f"There is no flag {name} here; {_hint(name, known, flags, command)}")
            words[i] = name + equals + value
        elif re.match(r"-[^A-Za-z-]", name):  # a number, or the name of a file
            words[i] = _MARK + word
    return [*words, *(_MARK + word for word in arguments[len(words) + 1 :])]


def before_separator(words: Sequence[str]) -> Sequence[str]:
    """The words before `--`, after which none is a flag."""
    return words[: words.index("--")] if "--" in words else words


def _unmarked(value: Any) -> Any:
    """A parsed value without the marks of words that could be taken for flags."""
    if isinstance(value, list):
        return [_unmarked(each) for each in value]
    return value.removeprefix(_MARK) if isinstance(value, str) else value


def _hint(name: str, known: Iterable[str], flags: Sequence[_Flag], command: str) -> str:
    spelled = {flag.name: flag.spelled() for flag in flags}
    if said := synonym(name.lstrip("-"), spelled, spelled.__getitem__):
        return said
    close = difflib.get_close_matches(name, known, n=2)
    return f"did you mean {' or '.join(close)}?" if close else f"`unsquare {command} --help` lists them."


def _parser(kind: type[Arguments], flags: Sequence[_Flag]) -> _Parser:
    positional = [flag for flag in flags if flag.is_positional]
    program = f"unsquare {kind.COMMAND}"
    parser = _Parser(
        prog=program,
        usage=" ".join([program, *(flag.placeholder() for flag in positional), "[options]"]),
        description=kind.__doc__,
        add_help=False,
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    first = [flag for name in kind.FIRST for flag in flags if flag.name == name]
    groups = {"arguments": positional, _PLAIN: first}
    for flag in flags:
        if flag not in positional and flag not in first:
            groups.setdefault(flag.group, []).append(flag)
    names = {flag.name: flag.spelled() for flag in flags}
    for title, members in groups.items():
        group = parser.add_argument_group(title)
        for flag in members:
            _add(group, flag, names, is_listed=flag.name not in kind.UNLISTED)
        if title == _PLAIN:
            for words, text in _EVERYWHERE.items():
                group.add_argument(*words, action="store_true", default=argparse.SUPPRESS, help=text)
    return parser


def _add(group: Any, flag: _Flag, names: Mapping[str, str], *, is_listed: bool) -> None:
    shown = _help(flag, names) if is_listed else argparse.SUPPRESS
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": shown}
    several = takes(flag.hint, tuple)
    if flag.is_positional:
        nargs = "*" if several else None if flag.default is MISSING else "?"
        group.add_argument(".".join(flag.place), metavar=flag.spelled(), nargs=nargs, **options)
    elif flag.hint is bool:
        yes, no = flag.words()
        action = group.add_argument(yes, dest=".".join(flag.place), action="store_true", **options)
        action.shown = f"--[no-]{yes[2:]}" if flag.default else yes
        options["help"] = argparse.SUPPRESS
        group.add_argument(no, dest=".".join(flag.place), action="store_false", **options)
    else:
        nargs = "+" if several else None
        group.add_argument(*flag.words(), dest=".".join(flag.place), metavar=flag.metavar(), nargs=nargs, **options)


def _help(flag: _Flag, names: Mapping[str, str]) -> str:
    """The help of a flag, with its choices and its default where the sentence does not have them."""
    text = re.sub(r"`(\w+)`", lambda found: names.get(found[1], found[0]), flag.help)
    notes = []
    words = re.findall(r"[\w-]+", text)
    if any(choice not in words for choice in literals(flag.hint)):
        notes.append(f"one of {', '.join(literals(flag.hint))}")
    if not any(flag.default is nothing for nothing in (None, False, MISSING)) and flag.default != ():
        text = text.partition(" (default: ")[0]
        notes.append(f"default: {_written(flag)}")
    return f"{text} ({'; '.join(notes)})".replace("%", "%%") if notes else text.replace("%", "%%")


def _written(flag: _Flag) -> str:
    """The default as it may be given."""
    value = flag.default
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if is_pixels(flag.hint) and value >= 100_000:
        return f"{value / 1e6:g}MP" if value % 10_000 == 0 else f"{value:_}"
    return f"{value:g}" if isinstance(value, float) else str(value)
