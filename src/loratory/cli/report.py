"""The verb that writes a report on runs."""

from pathlib import Path
from typing import Annotated

import typer

from loratory.cli.compare import MetricNames, PredictionsName, Primary, RunFolders, metric_list
from loratory.cli.console import note


def report(
    runs: RunFolders,
    output: Annotated[Path, typer.Option(help="HTML file; its Markdown twin stands beside it.")] = Path("report.html"),
    predictions: PredictionsName = None,
    metrics: MetricNames = None,
    primary: Primary = None,
    title: Annotated[str | None, typer.Option(help="Heading of the report.")] = None,
) -> None:
    """Write a report on runs: one HTML file without network, and Markdown."""
    from loratory.report import write_report

    written = write_report(
        runs, output, predictions=predictions, metrics=metric_list(metrics), primary=primary, title=title
    )
    found = written.content
    for line in found.comparison.verdict if found.comparison else ():
        typer.echo(line)
    for line in (*(found.comparison.notes if found.comparison else ()), *found.notes):
        note(line)
    typer.echo(f"report: {written.page} ({written.page.stat().st_size / 1024:.0f} KiB) and {written.markdown}")
