"""The report's table of errors by class: each column's recall, and what a class is taken for."""

from collections.abc import Sequence

from loratory.evaluation.answer_metrics.classes import ClassRow, ClassTable
from loratory.report.content import Content, run_titles
from loratory.report.tables import Cell, Table

MAX_CLASSES = 30
MAX_CLASS_COLUMNS = 6


def classes_table(content: Content) -> Table:
    """Recall of each class by column, and what the last column mostly takes it for."""
    titles = list(content.classes)
    shown = titles if len(titles) <= MAX_CLASS_COLUMNS else [*titles[:1], *_best_titles(content, MAX_CLASS_COLUMNS - 1)]
    shown = list(dict.fromkeys(shown))
    tables = [content.classes[title] for title in shown]
    errors = {row.name: max(table_row.support * (100 - table_row.recall) for table_row in _rows_of(tables, row.name))
              for row in tables[0].rows}  # fmt: skip
    order = sorted(tables[0].rows, key=lambda row: (-errors[row.name], row.name))
    rows = []
    for row in order[:MAX_CLASSES]:
        found = _rows_of(tables, row.name)
        recalls = (Cell(f"{each.recall:.0f}", each.recall) for each in found)
        rows.append(
            (Cell(row.name), Cell(str(row.support), row.support), *recalls, Cell(_taken_for(tables[-1], row.name)))
        )
    left = f"; the {MAX_CLASSES} with most errors of {len(order)}" if len(order) > MAX_CLASSES else ""
    caption = f"Recall in percent by {tables[0].rule}{left}"
    return Table(caption, ("class", "rows", *shown, f"{shown[-1]} takes it for"), tuple(rows), is_sortable=True)


def _best_titles(content: Content, limit: int) -> list[str]:
    assert content.comparison is not None
    metric = content.comparison.metric(content.comparison.primary)
    by_run = {
        path: value
        for setting in content.comparison.settings
        if not setting.is_base
        for path, value in zip(setting.runs, metric.score(setting.name).runs, strict=True)
    }
    tried = [run for run in content.runs if str(run.path) in by_run]
    named = {str(run.path): title for run, title in zip(tried, run_titles(tried), strict=True)}
    return [named[path] for path in sorted(by_run, key=lambda path: by_run[path])[-limit:]]


def _rows_of(tables: Sequence[ClassTable], name: str) -> list[ClassRow]:
    return [next(row for row in table.rows if row.name == name) for table in tables]


def _taken_for(table: ClassTable, name: str) -> str:
    wrong = [(other, count) for other, count in table.confusion[name].items() if other != name]
    return ", ".join(f"{other} ({count})" for other, count in wrong[:3]) or "–"
