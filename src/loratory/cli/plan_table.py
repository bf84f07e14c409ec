"""Plans and their history on the screen."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable
    from rich.text import Text

    from loratory.plan.history import PastRun
    from loratory.plan.planning import Plan
    from loratory.report.tables import Table

_STYLES = {"fits": "green", "too large": "red"}


def print_plan(plan: "Plan") -> None:
    """Print what a run would need."""
    from rich.console import Console
    from rich.text import Text

    from loratory.plan.tables import fit_words, notes_below, plan_tables, rank_words

    console = Console()
    console.print(
        Text.assemble("\n", (plan.config.run.name, "bold"), f": {plan.config.model.model_name_or_path}"),
        soft_wrap=True,
    )
    console.print(plan.report.describe(), highlight=False)
    if (rank := rank_words(plan)) is not None:
        console.print(rank, highlight=False)
    fit = fit_words(plan)
    for index, table in enumerate(plan_tables(plan)):
        console.print(_drawn(table))
        if index == 1 and fit is not None:
            console.print(Text(fit, style="green" if plan.fits else "red"))
    for words in notes_below(plan):
        console.print(Text(words, style="dim"))


def print_history(runs: "Sequence[PastRun]") -> None:
    """Print forecast and measurement of past runs, and the distribution of errors."""
    from rich.console import Console

    from loratory.plan.history import errors
    from loratory.plan.tables import seconds_text, size

    console = Console()
    table = _table("Forecast and measured", "run", "path", "peak", "measured", "error", "s/step", "measured", "error")
    for run in runs:
        planned, measured = run.record.predicted, run.record.measured
        assert measured is not None
        memory, ratio = run.memory_ratio, run.time_ratio
        table.add_row(
            run.name,
            run.record.path,
            size(planned.peak_bytes or 0),
            "not known" if measured.peak_bytes is None else size(measured.peak_bytes),
            "" if memory is None else f"{1 / memory - 1:+.1%}",
            seconds_text(planned.step_seconds),
            seconds_text(measured.step_seconds),
            "" if ratio is None else f"{1 / ratio - 1:+.1%}",
        )
    console.print(table)
    summary = _table("Errors", "of", "runs", "median", "90 %", "largest")
    peaks = [ratio for run in runs if (ratio := run.memory_ratio) is not None]
    times = [ratio for run in runs if (ratio := run.time_ratio) is not None]
    for name, ratios in (("peak memory", peaks), ("time of a step", times)):
        if ratios:
            summary.add_row(name, str(len(ratios)), *(f"{error:.1%}" for error in errors(ratios)))
    console.print(summary)
    exact = sum(run.is_exact for run in runs)
    console.print(f"trained numbers and files as forecast: {exact} of {len(runs)} runs", highlight=False)


def _drawn(table: "Table") -> "RichTable":
    found = _table(table.caption, *table.header)
    for row in table.rows:
        is_strong = row[0].text in ("peak", "time") or row[0].text.endswith("←")
        if row[0].text == "peak":
            found.add_section()
        found.add_row(*(_cell(cell.text, is_strong=is_strong and place < 2) for place, cell in enumerate(row)))
    return found


def _cell(text: str, *, is_strong: bool) -> "Text":
    from rich.text import Text

    return Text(text, style="bold" if is_strong else _STYLES.get(text, ""))


def _table(title: str, *columns: str) -> "RichTable":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_header=any(columns))
    for index, column in enumerate(columns):
        is_number = index > 0 and column not in ("path", "cost", "figures from")
        table.add_column(column, justify="right" if is_number else "left")
    return table
