"""The verb that runs studies: sweep STUDY.yaml [KEY=VALUE...], sweep show STUDY.yaml."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loratory.cli.console import note
from loratory.engine.libraries import load_libraries

if TYPE_CHECKING:
    from loratory.sweep.table import StudyTable

StudyFile = Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="The study file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Such as sweep.num_trials=4 for the study, train.max_steps=20 for its base.",
        show_default=False,
    ),
]


def run(
    study_file: StudyFile,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the study, or join it as another worker.")
    ] = False,
) -> None:
    """Train every trial of a study and print its table."""
    load_libraries()
    from loratory.sweep.sweep import run_sweep

    _print(run_sweep(study_file, overrides or (), resume=resume, note=lambda line: typer.echo(line, err=True)))


def show(study_file: StudyFile, overrides: Overrides = None) -> None:
    """Print the table of a study as it stands; nothing is written."""
    from loratory.sweep.sweep import show_sweep

    _print(show_sweep(study_file, overrides or (), note=note))


class _RunByDefault(typer.core.TyperGroup):
    """Makes `sweep FILE` mean `sweep run FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "-h", "--help"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


def make_sweep_app() -> typer.Typer:
    """The verbs of `loratory sweep`."""
    group = typer.Typer(
        cls=_RunByDefault,
        help="Run a study: sweep SWEEP.yaml [--resume]; sweep show SWEEP.yaml.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command("run")(run)
    group.command("show")(show)
    return group


def _print(table: "StudyTable") -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table("trial", "setting", table.metric, "state", "steps", "seconds")
    for row in table.rows:
        value = "" if row.value is None else f"{row.value:.4f}"
        spread = "" if row.spread is None else f" ± {row.spread:.4f}"
        shown.add_row(row.name, row.setting, value + spread, row.state, str(row.steps), f"{row.seconds:.1f}")
    Console().print(shown)
    for row in table.rows:
        if row.state == "failed":
            typer.echo(f"{row.name} failed: {row.reason}")
    for line in table.words:
        typer.echo(line)
    if table.best is not None:
        typer.echo(f"run directory: {table.folder / table.best.runs[0]}")
