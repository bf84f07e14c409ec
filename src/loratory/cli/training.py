"""The verbs that read a run file: train, config show, config schema."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loratory.cli.arguments import Overrides, RunFile, TrustRemoteCode
from loratory.cli.console import note
from loratory.engine.libraries import load_libraries
from loratory.errors import ConfigError

if TYPE_CHECKING:
    from loratory.config import RunConfig


def train(
    run_file: RunFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away the run of that name.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    reward_function: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION", help="Reward of an answer, for ppo, grpo, rloo: Python code that is run."
        ),
    ] = None,
) -> None:
    """Train what the run file says."""
    train_from_file(
        run_file,
        overrides or (),
        resume=resume,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
        reward_function=reward_function,
    )


def show_schema() -> None:
    """Print the JSON schema of a run file, for editors."""
    from loratory.config import config_schema, schema_to_json

    typer.echo(schema_to_json(config_schema()), nl=False)


def show_config(run_file: RunFile, overrides: Overrides = None) -> None:
    """Print the resolved run file: overrides applied, every default spelled out.

    Where the base is a local folder, the adapter is checked against its layers first; no weights are read.
    """
    from loratory.config import config_to_yaml

    config = _read_config(run_file, overrides or ())
    if (Path(config.model.model_name_or_path).expanduser() / "config.json").is_file():
        load_libraries()
        from loratory.engine.misfit import refuse_misfit
        from loratory.model.task import ClassHead

        is_scored = config.objective.name in ("classification", "reward")
        refuse_misfit(config, head=ClassHead((), 0) if is_scored else None)
    typer.echo(config_to_yaml(config), nl=False)


def train_from_file(
    run_file: Path,
    overrides: Sequence[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    reward_function: str | None = None,
) -> None:
    """Read a run file, train, and say where the result is.

    Args:
        run_file: The run file.
        overrides: section.key=value.
        resume: Go on from the newest checkpoint.
        overwrite: Throw away a run of that name.
        trust_remote_code: Run code from the model's folder.
        reward_function: Import path of the function that says what an answer is worth.

    Raises:
        LoratoryError: As the reader and the engine raise it.
    """
    config = _read_config(run_file, overrides)
    if not config.data.train:
        raise ConfigError("data.train: names no training rows; give data.train=FILE")
    load_libraries()
    from loratory.engine.training import run_training

    reward = None
    if reward_function is not None:
        from loratory.objective.reward_function import load_reward_function

        reward = load_reward_function(reward_function)
    result = run_training(
        config, resume=resume, overwrite=overwrite, trust_remote_code=trust_remote_code, reward_function=reward
    )
    typer.echo(f"run directory: {result.run_dir}")


def _read_config(run_file: Path, overrides: Sequence[str]) -> "RunConfig":
    from loratory.config import read_config

    reading = read_config(run_file, overrides)
    for sentence in reading.notes:
        note(sentence)
    return reading.config
