"""The command line: parse, call one library function, print.

Each command is a module, imported once its arguments are parsed: help and mistakes need neither torch nor anything else
that takes long to load.
"""

from __future__ import annotations

import difflib
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from unsquare.cli.arguments import ARGUMENTS
from unsquare.cli.parsing import before_separator, parse
from unsquare.errors import UnsquareError, UsageError
from unsquare.torchvision_guard import explanation
from unsquare.version import __version__

COMMANDS = {
    "demo": "make a dataset of pictures, train on it and write the report",
    "scan": "index a source of pictures by reading their headers",
    "plan": "show how an epoch would be batched, and what padding costs",
    "train": "train a classifier on pictures of every shape",
    "find-lr": "find a learning rate by a short test",
    "evaluate": "measure a run's accuracy on pictures with labels",
    "predict": "print the most probable classes of pictures",
    "profile": "show which layers hold the memory, and how many images fit",
    "report": "write a run's report again",
    "verify-exact": "measure that padding does not count, for any network",
}

_BASES = {"train": {"--config", "--resume"}, "find-lr": {"--config"}}
"""Flags that name the settings which other flags change."""

_USAGE = "usage: unsquare [--verbose] COMMAND ...\n\nTrain image classifiers on pictures as they are.\n\ncommands:\n"
_OPTIONS = """
options:
  --verbose    print more; with COMMAND --help, details of each flag
  --version    print the version
  -h, --help   show this help; `unsquare COMMAND --help` lists a command's flags

example:
  unsquare demo"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the return value is the process's exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    is_verbose = "--verbose" in arguments[:end]
    arguments = [word for word in arguments[:end] if word != "--verbose"] + arguments[end:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_USAGE + "".join(f"  {name:12} {text}\n" for name, text in COMMANDS.items()) + _OPTIONS)
        return 0
    if arguments[0] in ("--version", "-V"):
        print(f"unsquare {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(COMMANDS)}."
        return _fail(f"There is no command {name!r}; {hint}", status=2)
    warnings.formatwarning = _one_line
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    # Before torch is loaded: by default its threads spin long while they wait for each other, and starve those that
    # decode. Sleeping at once is up to a third slower on a quiet machine, a short spin is not; see docs/experiments.md.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large tensors in huge pages: a third quicker
    try:
        with _messages(is_verbose):
            return _run(name, rest, is_verbose)
    except UsageError as error:
        return _fail(str(error), status=2)
    except UnsquareError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of our output has gone, as in `unsquare plan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder that has gone
        return _fail(f"{error.filename or 'A file'} cannot be read or written: {error.strerror or error}.")
    except (AttributeError, RuntimeError) as error:
        if said := explanation(error):
            return _fail(f"{said} ({str(error).splitlines()[0]})")
        raise
    except KeyboardInterrupt:
        return _fail("interrupted.", status=130)


def _run(name: str, words: Sequence[str], is_verbose: bool) -> int:
    before = before_separator(words)
    named = {word.partition("=")[0] for word in before}
    defaults = None
    if named & _BASES.get(name, set()) and not named & {"-h", "--help"}:
        # Flags are given beside the settings of that file or run, so these are read first.
        settings = importlib.import_module("unsquare.cli.base_settings").base_settings(before)
        defaults = {"settings": settings}
    given = parse(ARGUMENTS[name], words, defaults, whole_help=is_verbose)
    return int(importlib.import_module(f"unsquare.cli.{name.replace('-', '_')}").run(given))


@contextmanager
def _messages(is_verbose: bool) -> Iterator[None]:
    """A block whose messages of the library are printed where they are asked for."""
    logger, handler = logging.getLogger("unsquare"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("unsquare: %(message)s"))
    level = logger.level
    if is_verbose:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    return f"unsquare: {message}\n"


def _fail(message: str, status: int = 1) -> int:
    # Names of files and classes may hold anything; a terminal would obey what does not print.
    safe = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in message)
    print(f"unsquare: {safe}", file=sys.stderr)
    return status
