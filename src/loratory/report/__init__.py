"""Reports on runs: one self-contained HTML file and its Markdown twin."""

from loratory.report.writing import Report, report_page, write_report

__all__ = ["Report", "report_page", "write_report"]
