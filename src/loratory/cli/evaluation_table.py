"""Evaluation results on the console: one table a part, values over their intervals, definitions below."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from loratory.evaluation.measure import Measure
    from loratory.evaluation.results import Part, Results

TITLES = {
    "ppl": "Perplexity",
    "zero_shot": "Zero-shot accuracy",
    "text": "Answers",
    "speed": "Speed",
    "memory": "Memory",
}
# Here the many metrics stand beside each other and what they are on below each other.
WIDE = {"zero_shot", "text"}
_SCALES = {
    "bytes": ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")),
    "": ((10**9, "G"), (10**6, "M"), (10**3, "k")),
}


def print_results(results: "Results") -> None:
    """Print the parts that were measured, and why others were not."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    subject, place = results.subject, results.environment
    name = subject.path if subject.adapter is None else f"{subject.path} on {subject.base}"
    console.print(
        Text(f"{name}\n{subject.architecture}, {subject.dtype}, {place.device}, {place.threads} threads", style="dim")
    )
    for key, title in TITLES.items():
        part = results.parts[key]
        if part.measures:
            console.print(_table(key, title, part))
            for line in [*_choices(part.measures), *([part.note] if part.note else [])]:
                console.print(Text(f"  {line}", style="dim"))
        elif part.status == "skipped" and part.note != "not asked for":
            console.print(f"\n{title}: {part.note}", markup=False, highlight=False)


def _table(key: str, title: str, part: "Part") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    is_wide = key in WIDE
    across = _order(_short(m) if is_wide else m.on for m in part.measures)
    down = _order(m.on if is_wide else _short(m) for m in part.measures)
    state = "" if part.status == "complete" else f", {part.status}"
    table = Table(
        title=f"\n{title} ({part.seconds:.0f} s{state})",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
    )
    table.add_column("")
    for name in across:
        table.add_column(name, justify="right")
    cells = {(m.on, _short(m)) if is_wide else (_short(m), m.on): m for m in part.measures}
    for row in down:
        table.add_row(row, *[_cell(cells.get((row, column))) for column in across])
    return table


def _cell(measure: "Measure | None") -> "Text | str":
    from rich.text import Text

    if measure is None:
        return ""
    value, unit = _scaled(measure.value, measure.unit)
    cell = Text(f"{value} {unit}".rstrip())
    if measure.low is not None and measure.high is not None:
        low, high = (_scaled(x, measure.unit)[0] for x in (measure.low, measure.high))
        cell.append(f"\n{low} to {high}", style="dim")
    return cell


def _scaled(value: float, unit: str) -> tuple[str, str]:
    """A number of about four digits, and its unit with a prefix where the number is large."""
    kind = "bytes" if unit == "bytes" else ""
    if unit in ("bytes", "parameters", "MAC"):
        for size, prefix in _SCALES[kind]:
            if value >= size:
                return f"{value / size:.4g}", prefix if kind else f"{prefix} {unit}".replace("G MAC", "GMAC")
        return f"{value:.0f}", unit
    shown = "" if unit == "per token" else unit
    return (f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}"), shown


def _short(measure: "Measure") -> str:
    return measure.name.partition("@")[0].replace("_", " ")


def _choices(measures: "Sequence[Measure]") -> list[str]:
    """What stands behind the metrics' names, each once, without the batch size that the columns show."""
    found = (measure.name.partition("@")[2].partition(",batch=")[0] for measure in measures)
    return [choice for choice in _order(found) if choice]


def _order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
