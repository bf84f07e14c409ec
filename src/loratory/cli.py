"""The `loratory` command: verbs to functions.

Each verb imports its room when it runs, so that `--help`, `--version` and configuration errors answer without torch.
No verb computes anything itself.
"""

import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loratory import __version__
from loratory.errors import ConfigError, LoratoryError, ResourceError

if TYPE_CHECKING:
    from loratory.config import RunConfig


class _Verbs(typer.core.TyperGroup):
    """Turns loratory's errors into one message and their exit code, whatever the verb."""

    def invoke(self, ctx: Any) -> Any:
        with failures_as_exit_codes():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Verbs,
    name="loratory",
    help="A laboratory for fine-tuning language models on small hardware.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Show the configuration and its schema.", no_args_is_help=True)
adapter_app = typer.Typer(help="Look into adapters and merge them.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(adapter_app, name="adapter")

RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Fields to override.", show_default=False),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code from the model's folder.")]
Base = Annotated[bool, typer.Option("--base", help="Use the base model alone, without what was trained.")]


def main() -> None:
    """Run the command line."""
    app()


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"loratory {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    run_file: RunFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away the run of that name.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Train what the run file says."""
    train_from_file(run_file, overrides or (), resume=resume, overwrite=overwrite, trust_remote_code=trust_remote_code)


@config_app.command("schema")
def show_schema() -> None:
    """Print the JSON schema of a run file, for editors."""
    from loratory.config import config_schema, schema_to_json

    typer.echo(schema_to_json(config_schema()), nl=False)


@config_app.command("show")
def show_config(run_file: RunFile, overrides: Overrides = None) -> None:
    """Print the resolved run file: overrides applied, every default spelled out."""
    from loratory.config import config_to_yaml

    typer.echo(config_to_yaml(_read_config(run_file, overrides or ())), nl=False)


def train_from_file(
    run_file: Path,
    overrides: Sequence[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Read a run file, train, and say where the result is.

    Raises:
        LoratoryError: As the reader and the engine raise it.
    """
    config = _read_config(run_file, overrides)
    if not config.data.train:
        raise ConfigError("data.train: names no training rows; give data.train=FILE")
    from loratory.engine.training import run_training

    result = run_training(config, resume=resume, overwrite=overwrite, trust_remote_code=trust_remote_code)
    typer.echo(f"run directory: {result.run_dir}")


def _read_config(run_file: Path, overrides: Sequence[str]) -> "RunConfig":
    from loratory.config import read_config

    reading = read_config(run_file, overrides)
    for note in reading.notes:
        _say("note", note, colour=typer.colors.YELLOW)
    return reading.config


@contextmanager
def failures_as_exit_codes() -> Iterator[None]:
    """Report an expected failure on stderr and leave with its exit code; a bug keeps its traceback.

    Raises:
        SystemExit: With the code of the `LoratoryError`; 130 after Ctrl-C; 5 when memory or disk ran out.
    """
    try:
        yield
    except LoratoryError as error:
        _say("error", str(error), colour=typer.colors.RED)
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt as error:
        _say("stopped", "interrupted", colour=typer.colors.YELLOW)
        raise SystemExit(130) from error
    except (MemoryError, OSError, RuntimeError) as error:
        advice = _resource_advice(error)
        if advice is None:
            raise
        _say("error", advice, colour=typer.colors.RED)
        raise SystemExit(ResourceError.exit_code) from error


def _resource_advice(error: BaseException) -> str | None:
    """What to do about exhausted memory or disk, or None when the error is something else."""
    if isinstance(error, OSError):
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            where = f" at {error.filename}" if error.filename else ""
            return f"the disk is full{where}. Free some space or set run.output_dir to another disk; then use --resume."
        if error.errno != errno.ENOMEM:
            return None
    elif not isinstance(error, MemoryError):
        torch = sys.modules.get("torch")
        is_exhausted = torch is not None and isinstance(error, torch.OutOfMemoryError)
        if not is_exhausted and "can't allocate memory" not in str(error):
            return None
    reason = str(error).splitlines()[0] if str(error) else "no memory left"
    return (
        f"out of memory: {reason}\nUse a smaller train.micro_batch_size or data.cutoff_len, set "
        "train.gradient_checkpointing=true or quantization.load_in_4bit=true, or take a lower adapter.rank."
    )


def _say(label: str, message: str, *, colour: str) -> None:
    typer.echo(f"{typer.style(f'{label}:', fg=colour, bold=True)} {message}", err=True)
