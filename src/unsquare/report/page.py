"""The page on a run: every section in one self-contained HTML file."""

from __future__ import annotations

import warnings
from pathlib import Path

from unsquare.report.outcome import evaluation_sections
from unsquare.report.overview import closing_sections, overview_sections
from unsquare.report.progress import progress_sections
from unsquare.report.record import Record, read_record
from unsquare.report.shell import page_of, write_page
from unsquare.settings import checks_arguments

FILE_NAME = "report.html"


@checks_arguments
def write_report(run: Path | str) -> Path:
    """Write `report.html` into a run folder from what is in it, and return its path.

    A run that stopped early, or was not evaluated yet, has a page too: what is missing is named there. So is a file
    that cannot be read; a warning tells of it, too.

    Raises:
        RunError: the folder is missing, is not a run, or cannot be written to.
    """
    path, damage = report_of(Path(run))
    for words in damage:
        warnings.warn(words, stacklevel=3)  # whoever calls, behind the check of arguments
    return path


def report_of(run: Path) -> tuple[Path, list[str]]:
    """As `write_report`; returns the page's path, and a sentence for each file that cannot be read."""
    record = read_record(run)
    return write_page(run / FILE_NAME, render_page(record)), record.damage()


def render_page(record: Record) -> str:
    """The whole page as HTML."""
    head, sections = overview_sections(record)
    sections = [
        *sections,
        *progress_sections(record),
        *evaluation_sections(record),
        *closing_sections(record),
    ]
    footer = "Made by unsquare from the files of the run folder. Intervals are 95 % Wilson intervals."
    return page_of(record.name, head, sections, footer)
