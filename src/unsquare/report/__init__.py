"""The page that shows what happened in a run: reads the run folder's files, needs no torch."""

from unsquare.report.page import write_report

__all__ = ["write_report"]
