"""The verb that compares runs on the same test rows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loratory.cli.console import note

if TYPE_CHECKING:
    from rich.table import Table

    from loratory.compare import Comparison

MAX_ACROSS = 5  # settings beside each other on a screen
RunFolders = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.", show_default=False)]
PredictionsName = Annotated[
    str | None, typer.Option(help="Which predictions of the runs; default: those that all of them have.")
]
MetricNames = Annotated[str | None, typer.Option(help="Metrics with commas; default: those that fit the labels.")]
Primary = Annotated[str | None, typer.Option(help="The metric of the verdict; default: exact_match.")]


def compare(
    runs: RunFolders,
    predictions: PredictionsName = None,
    metrics: MetricNames = None,
    primary: Primary = None,
    baseline: Annotated[
        str | None, typer.Option(help="Compare the others with this one only; default: every pair.")
    ] = None,
    with_base: Annotated[bool, typer.Option("--with-base", help="Compare with the untrained base, too.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Compare runs on the same test rows: differences with intervals, tests, cost, a verdict."""
    from loratory.compare import compare_runs, write_comparison

    found = compare_runs(
        runs,
        predictions=predictions,
        metrics=metric_list(metrics),
        primary=primary,
        baseline=baseline,
        with_base=with_base,
        seed=seed,
    )
    _print(found)
    if output is not None:
        write_comparison(output, found)
        typer.echo(f"comparison: {output}")


def metric_list(metrics: str | None) -> list[str] | None:
    """Names given with commas."""
    return None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]


def _print(found: "Comparison") -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    test = found.test_set
    console.print(
        Text(f"{found.predictions}: {test.num_rows} rows, sha256 {test.sha256[:12]}; scores in percent, 95 % intervals")
    )
    console.print(_scores_table(found))
    if found.differences:
        console.print(_differences_table(found))
    pairs = found.metric(found.primary).pairs
    if pairs:
        console.print(_pairs_table(found))
        for sentence in found.verdict:
            console.print(Text(sentence, style="bold"))
    for line in found.notes:
        note(line)
    if found.environment:
        note("the runs' environments differ: " + ", ".join(each.key for each in found.environment))


def _scores_table(found: "Comparison") -> "Table":
    """Metrics and costs downwards, settings across; the other way round and shorter when settings are many."""
    from rich.table import Table
    from rich.text import Text

    from loratory.compare.wording import bytes_words, number_words, seconds_words

    is_narrow = len(found.settings) <= MAX_ACROSS
    names = [each.name for each in found.metrics] if is_narrow else [found.primary]
    columns = []
    for setting in found.settings:
        scores = [found.metric(name).score(setting.name) for name in names]
        cost = setting.cost
        columns.append(
            [
                Text(setting.name),
                Text("–" if setting.is_base else str(len(setting.runs))),
                *(Text(f"{each.value:.1f} ({each.low:.1f} to {each.high:.1f})") for each in scores),
                Text(seconds_words(cost.train_seconds)),
                Text(bytes_words(cost.peak_bytes)),
                Text(number_words(cost.trainable)),
                Text(bytes_words(cost.adapter_bytes)),
            ]
        )
    titles = ["", "seeds", *names, "training time", "peak memory", "trained numbers", "result on disk"]
    lines = [[Text(title) for title in titles], *columns]
    if is_narrow:
        lines = [list(row) for row in zip(*lines, strict=True)]
    table = Table()
    for cell in lines[0]:
        table.add_column(cell)
    for line in lines[1:]:
        table.add_row(*line)
    return table


def _differences_table(found: "Comparison") -> "Table":
    """Keys downwards, settings across; what each does otherwise than the first when settings are many."""
    from rich.table import Table
    from rich.text import Text

    names = [setting.name for setting in found.settings if not setting.is_base]
    if len(names) <= MAX_ACROSS:
        table = Table("what differs")
        for name in names:
            table.add_column(Text(name))
        for each in found.differences:
            table.add_row(Text(each.key), *(Text(value) for value in each.values))
        return table
    table = Table("")
    table.add_column(Text(f"differs from {names[0]} in"))
    for index, name in enumerate(names[1:], start=1):
        others = [each for each in found.differences if each.values[index] != each.values[0]]
        table.add_row(Text(name), Text("\n".join(f"{each.key}={each.values[index]}" for each in others)))
    return table


def _pairs_table(found: "Comparison") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(
        "pair", "difference", "95 % interval", "better / worse rows", "test", "p", "p (Holm)", title=found.primary
    )
    for pair in found.metric(found.primary).pairs:
        rows = "–" if pair.wins is None else f"{pair.wins} / {pair.losses}"
        table.add_row(
            Text(f"{pair.second} − {pair.first}"),
            f"{pair.difference:+.2f}",
            f"{pair.low:+.2f} to {pair.high:+.2f}",
            rows,
            pair.test,
            *("< 0.0001" if p < 0.0001 else f"{p:.4f}" for p in (pair.p, pair.p_holm)),
        )
    return table
