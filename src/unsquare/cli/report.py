"""`unsquare report`: write a run's report again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from unsquare.cli.parsing import parse
from unsquare.report import write_report

EXAMPLE = "unsquare report runs/photos"


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write the page that shows what happened in a run; it also shows a run that is still going on."""

    run: tyro.conf.Positional[Path]
    """The run folder."""


def run(arguments: Sequence[str]) -> int:
    """Run the command."""
    given = parse(ReportArguments, arguments, command="report", example=EXAMPLE)
    print(write_report(given.run))
    return 0
