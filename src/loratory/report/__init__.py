"""Reports on runs: one self-contained HTML file and its Markdown twin."""

from loratory.report.writing import Report, write_report

__all__ = ["Report", "write_report"]
