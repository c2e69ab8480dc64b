"""Pages that show what happened in a run, what takes its memory, and how two plans differ; they need no torch."""

from unsquare.report.comparison_page import write_comparison_page
from unsquare.report.page import write_report
from unsquare.report.profile_page import write_profile_page

__all__ = ["write_comparison_page", "write_profile_page", "write_report"]
