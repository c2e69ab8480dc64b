"""The page on a run: every section in one self-contained HTML file."""

from __future__ import annotations

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

    A run that stopped early, or was not evaluated yet, has a page too: what is missing is named there.

    Raises:
        RunError: the folder is missing, is not a run, holds a broken file, or cannot be written to.
    """
    run = Path(run)
    return write_page(run / FILE_NAME, render_page(read_record(run)))


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
