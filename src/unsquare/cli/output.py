"""What commands print besides text: one JSON object, and a progress bar."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SURROGATE = re.compile("[\ud800-\udfff]")


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
