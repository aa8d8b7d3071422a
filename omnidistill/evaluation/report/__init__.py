"""report.html: one page that shows what a run, or a sweep of runs, came to."""

from omnidistill.evaluation.report.page import write_report

__all__ = ["write_report"]
