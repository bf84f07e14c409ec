"""The verb `import`: another tool's run file or command line becomes ours."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loratory.cli.console import note
from loratory.errors import ConfigError

if TYPE_CHECKING:
    from loratory.config.foreign_file import ForeignRun


def import_run(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE]... [SECTION.KEY=VALUE]...", help="Files; fields to override.", show_default=False
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="The run file to write.")] = Path("run.yaml"),
    tool: Annotated[str | None, typer.Option("--as", metavar="TOOL", help="Whose settings these are.")] = None,
    command: Annotated[str | None, typer.Option(help="A command line as one text; it is never executed.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Processes that trained together there.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run file if there is one.")] = False,
) -> None:
    """Read other tools' settings (PEFT, LLaMA-Factory, alpaca-lora, LLM-Pruner, Axolotl, TRL) as a run file."""
    from loratory.config.foreign_file import read_foreign_run

    paths = [Path(each) for each in files or () if not _is_override(each)]
    overrides = [each for each in files or () if _is_override(each)]
    if not paths and command is None:
        raise ConfigError("import: give files of another tool, or --command with its command line")
    if output.exists() and not overwrite:
        raise ConfigError(f"{output}: exists already; give --output FILE or --overwrite")
    run = read_foreign_run(paths, tool=tool, command=command, processes=processes, overrides=overrides)
    _write(output, run.to_yaml())
    _print_findings(run)
    typer.echo(f"run file: {output}")


def _is_override(text: str) -> bool:
    key, equals, _ = text.partition("=")
    return bool(equals) and "." in key and "/" not in key and not Path(text).exists()


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def _print_findings(run: "ForeignRun") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from loratory.config.foreign_file import describe_setting

    console = Console()
    console = console if console.is_terminal else Console(width=160)
    table = Table("what became of it", f"setting of {run.tool}", "why")
    for finding in run.findings:
        table.add_row(finding.kind, Text(describe_setting(finding)), Text(finding.reason))
    if run.findings:
        console.print(table)
    count = sum(finding.kind == "not honoured" for finding in run.findings)
    if count:
        note(f"{count} setting{'s' * (count > 1)} not honoured: the run will differ from {run.tool}'s")
