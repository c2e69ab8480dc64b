"""`unsquare report`: write a run's report again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from unsquare.cli.parsing import parse
from unsquare.report.page import report_of

EXAMPLE = "unsquare report runs/photos"


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write the page that shows what happened in a run; it also shows a run that is still going on."""

    run: tyro.conf.Positional[Path]
    """The run folder."""


def run(arguments: Sequence[str]) -> int:
    """Run the command; the status is 1 where a file of the run cannot be shown."""
    given = parse(ReportArguments, arguments, command="report", example=EXAMPLE)
    page, damage = report_of(given.run)
    print(page)
    for words in damage:
        print(f"unsquare: {words}", file=sys.stderr)
    return 1 if damage else 0
