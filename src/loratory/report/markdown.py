"""The report's Markdown twin: the same verdict and tables, without charts, for a repository or a message."""

import re

from loratory.report import tables
from loratory.report.class_errors import classes_table
from loratory.report.content import Content, run_values
from loratory.report.page import IMPORTANCE_WARNING, summary
from loratory.report.predictions import questions
from loratory.report.tables import Table
from loratory.report.trials import trials_table

MAX_EXAMPLES = 10
_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#!])")


def markdown_page(content: Content, *, title: str) -> str:
    """The report as Markdown.

    Args:
        content: What it shows.
        title: Its heading, plain text.
    """
    comparison = content.comparison
    parts = [f"# {escaped(title)}", escaped(summary(content))]
    lines = [*(comparison.verdict if comparison else ()), *(comparison.notes if comparison else ()), *content.notes]
    if lines:
        parts.append("\n".join(f"- {escaped(line)}" for line in lines))
    for study in content.studies:
        parts.append("\n".join(f"- {escaped(line)}" for line in study.words))
        parts.append(_section("Study", trials_table(study)))
    parts.append(_section("Experiments", tables.experiments_table(content)))
    if comparison is not None:
        parts.append(_section("Scores", tables.settings_table(comparison)))
        if comparison.metric(comparison.primary).pairs:
            parts.append(_table(tables.pairs_table(comparison)))
        if comparison.differences:
            parts.append(_section("What differs", tables.differences_table(content)))
        if comparison.environment:
            compared = [run for run in content.runs if run.path in run_values(comparison)]
            parts.append(_table(tables.environment_table(comparison, compared)))
    if content.importance:
        parts.append(_section("What mattered", tables.importance_table(content)))
        parts.append(escaped(IMPORTANCE_WARNING))
    if content.classes:
        parts.append(_section("Errors by class", classes_table(content)))
    if content.columns:
        parts.append(_section("Answers", _examples(content)))
    parts.append(_section("Data", tables.data_table(content)))
    if content.certificates:
        parts.append(_section("Certificates", tables.certificates_table(content)))
    if comparison is not None:
        parts.append(_section("Metrics", tables.definitions_table(comparison)))
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no line break."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _section(heading: str, table: Table) -> str:
    return f"## {heading}\n\n{_table(table)}"


def _table(table: Table) -> str:
    header = "| " + " | ".join(escaped(name) for name in table.header) + " |"
    rule = "|" + "---|" * len(table.header)
    rows = ["| " + " | ".join(escaped(cell.text) for cell in row) + " |" for row in table.rows]
    return "\n".join([f"{escaped(table.caption)}:", "", header, rule, *rows])


def _examples(content: Content) -> Table:
    """The first rows on which the answers differ, or the first rows of a single run."""
    columns = content.columns[:4]
    rows = columns[0].answers.rows
    differing = [
        index for index in range(len(rows)) if len({column.answers.rows[index].predict for column in columns}) > 1
    ]
    chosen = (differing if len(columns) > 1 else list(range(len(rows))))[:MAX_EXAMPLES]
    asked = questions(rows)
    cells = tuple(
        tables.text_cells(
            str(index + 1), asked[index], rows[index].label, *(column.answers.rows[index].predict for column in columns)
        )
        for index in chosen
    )
    kind = "First rows on which the answers differ" if len(columns) > 1 else "First rows"
    return Table(kind, ("row", "question", "label", *(column.title for column in columns)), cells)
