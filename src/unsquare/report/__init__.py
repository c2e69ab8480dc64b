"""Pages on what happened in a run, what takes its memory, how two plans differ, and learning rates, without torch."""

from unsquare.report.comparison.page import write_comparison_page
from unsquare.report.profile.page import write_profile_page
from unsquare.report.rates import write_rate_page
from unsquare.report.run.page import write_report

__all__ = ["write_comparison_page", "write_profile_page", "write_rate_page", "write_report"]
