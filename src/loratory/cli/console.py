"""What the verbs print: labelled lines on stderr, a progress bar, a table of scores."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from loratory.evaluation.text import Score


def quiet_libraries() -> None:
    """Keep libraries from writing over our output. Acts only on libraries that are imported later."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # It warns on import about an accelerator package that a CPU run does not need.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def say(label: str, message: str, *, colour: str) -> None:
    """Print `label: message` on stderr."""
    typer.echo(f"{typer.style(f'{label}:', fg=colour, bold=True)} {message}", err=True)


def note(message: str) -> None:
    """Print a note on stderr."""
    say("note", message, colour=typer.colors.YELLOW)


def print_scores(scores: Mapping[str, "Score"]) -> None:
    """Print scores with their intervals."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "percent", "95 % interval", "rows")
    for score in scores.values():
        table.add_row(score.id, f"{score.value:.2f}", f"{score.low:.2f} to {score.high:.2f}", str(score.n))
    Console().print(table)


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; yields the function that says how much is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def running_count(what: str) -> Iterator[Callable[[int], None]]:
    """A count on stderr of what is done where the end is not known; nothing when stderr is no terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done: None
        return
    with console.status(f"0 {what}") as status:
        yield lambda done: status.update(f"{done:,} {what}")
