"""`write_report`: run directories in, one HTML file and its Markdown twin out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loratory.errors import ConfigError
from loratory.report.content import Content, gather
from loratory.report.markdown import markdown_page
from loratory.report.page import html_page
from loratory.run import write_text


@dataclass(frozen=True, slots=True)
class Report:
    """What was written.

    Attributes:
        page: The HTML file.
        markdown: Its twin.
        content: What both show.
    """

    page: Path
    markdown: Path
    content: Content


def write_report(
    paths: Sequence[Path],
    output: Path,
    *,
    predictions: str | None = None,
    metrics: Sequence[str] | None = None,
    primary: str | None = None,
    title: str | None = None,
) -> Report:
    """Write a report on one or more runs. Equal runs give equal bytes.

    Args:
        paths: Run directories, or folders of studies.
        output: The HTML file; the Markdown twin stands beside it with the ending .md.
        predictions: Name of the predictions below each run; None takes those that the runs have.
        metrics: Names of metrics; None takes those that fit the labels.
        primary: The metric that settings are ranked by; None takes exact_match.
        title: Heading; None names the runs.

    Raises:
        ConfigError: The output's name does not end in .html, or a metric is unknown.
        RunError: A path is no run, or holds nothing to report.
        DataError: The runs answered different rows.
    """
    if output.suffix != ".html":
        raise ConfigError(f"output: '{output}' must end in .html; the Markdown twin takes the same name with .md")
    content = gather(paths, predictions=predictions, metrics=metrics, primary=primary)
    heading = title or heading_of(content)
    twin = output.with_suffix(".md")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(twin, _writable(markdown_page(content, title=heading)))
    write_text(output, _writable(html_page(content, title=heading)))
    return Report(output, twin, content)


def report_page(paths: Sequence[Path]) -> str:
    """The HTML of the report on some runs, as `write_report` would write it.

    Raises:
        RunError, DataError: As `write_report`.
    """
    content = gather(paths)
    return _writable(html_page(content, title=heading_of(content)))


def heading_of(content: Content) -> str:
    """A report's title where none was given."""
    if content.studies:
        return "Study " + ", ".join(study.name for study in content.studies)
    return f"Run {content.runs[0].name}" if len(content.runs) == 1 else "Comparison of runs"


def _writable(text: str) -> str:
    """Half of a surrogate pair, which an answer may hold, cannot be written as UTF-8; a question mark stands for it."""
    return text.encode("utf-8", "replace").decode("utf-8")
