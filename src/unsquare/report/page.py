"""The page on a run: every section in one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path

from unsquare.errors import RunError
from unsquare.files import write_text
from unsquare.report.outcome import evaluation_sections
from unsquare.report.overview import closing_sections, overview_sections
from unsquare.report.progress import progress_sections
from unsquare.report.record import Record, read_record
from unsquare.report.shell import page_of

FILE_NAME = "report.html"


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder from what is in it, and return its path.

    A run that stopped early, or was not evaluated yet, has a page too: what is missing is named there.

    Raises:
        RunError: the folder is missing, is not a run, holds a broken file, or cannot be written to.
    """
    run = Path(run)
    page = render_page(read_record(run))
    path = run / FILE_NAME
    try:
        write_text(path, page)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}); make the run folder writable.") from error
    return path


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
