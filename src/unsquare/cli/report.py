"""`unsquare report`: write a run's report again."""

from __future__ import annotations

import sys

from unsquare.cli.arguments import ReportArguments
from unsquare.report.run.page import report_of


def run(given: ReportArguments) -> int:
    """Run the command; the status is 1 where a file of the run cannot be shown."""
    page, damage = report_of(given.run)
    print(page)
    for words in damage:
        print(f"unsquare: {words}", file=sys.stderr)
    return 1 if damage else 0
