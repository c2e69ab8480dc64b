"""Pages that show what happened in a run, what takes its memory, and how two plans differ; they need no torch."""

from unsquare.report.comparison.page import write_comparison_page
from unsquare.report.profile.page import write_profile_page
from unsquare.report.run.page import write_report

__all__ = ["write_comparison_page", "write_profile_page", "write_report"]
