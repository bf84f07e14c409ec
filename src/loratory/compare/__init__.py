"""Comparing runs on the same test rows: paired differences, tests, and a verdict in words."""

from loratory.compare.comparison import compare_runs, read_runs
from loratory.compare.result import Comparison, MetricComparison, Pair, Setting, SettingScore, write_comparison
from loratory.compare.run_facts import Cost, RunFacts, read_run

__all__ = [
    "Comparison",
    "Cost",
    "MetricComparison",
    "Pair",
    "RunFacts",
    "Setting",
    "SettingScore",
    "compare_runs",
    "read_run",
    "read_runs",
    "write_comparison",
]
