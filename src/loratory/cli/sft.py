"""The verb `sft` takes the flags of PEFT's examples/sft; the recipe of `train_with_config.py` is made of them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loratory.cli.arguments import TrustRemoteCode
from loratory.cli.console import note
from loratory.engine.libraries import load_libraries
from loratory.errors import ConfigError

if TYPE_CHECKING:
    from loratory.config import RunConfig
    from loratory.config.foreign_file import ForeignRun

COMMAND = "loratory sft"
# Everything that is no option of ours is a flag of that script.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}
_OVERRIDE = re.compile(r"[a-z_]+(\.[A-Za-z_]\w*)+=")


def sft(
    context: typer.Context,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away the run of that name.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Train with the flags of PEFT's examples/sft, such as --model_name_or_path M --dataset_name D --lora_r 8."""
    train_from_flags(context.args, resume=resume, overwrite=overwrite, trust_remote_code=trust_remote_code)


def train_from_flags(
    tokens: Sequence[str], *, resume: bool = False, overwrite: bool = False, trust_remote_code: bool = False
) -> None:
    """Train what flags of PEFT's examples/sft say, and say where the result is.

    Args:
        tokens: Flags and values as on a command line; one JSON file with them; `section.key=value` for our own fields.
        resume: Go on from the newest checkpoint.
        overwrite: Throw away the run of that name.
        trust_remote_code: Run Python code from the model's folder.

    Raises:
        LoratoryError: As the reader and the engine raise it.
    """
    from loratory.config.foreign_file import read_foreign_flags

    overrides = [token for token in tokens if _OVERRIDE.match(token)]
    flags = [token for token in tokens if not _OVERRIDE.match(token)]
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    run = read_foreign_flags(flags, tool="peft-sft", source=COMMAND, processes=processes, overrides=overrides)
    _refuse_or_note(run)
    load_libraries()
    from loratory.engine.training import run_training

    config = _fitted_to_machine(run.config)
    result = run_training(config, resume=resume, overwrite=overwrite, trust_remote_code=trust_remote_code)
    typer.echo(f"run directory: {result.run_dir}")


def train_with_recipe(
    adapter_file: Path,
    *,
    model_path: str,
    dataset_name: str,
    output_dir: str,
    num_epochs: float,
    execute: bool,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Print the whole command that an adapter file means under the documented recipe; with `execute`, run it here.

    Raises:
        LoratoryError: The file is no adapter file, or as the reader and the engine raise it.
    """
    from loratory.config.foreign_file import read_adapter_json
    from loratory.interop.sft_recipe import flags_to_tokens, format_command, recipe_flags

    flags = recipe_flags(
        read_adapter_json(adapter_file),
        adapter_file=str(adapter_file),
        model_path=model_path,
        dataset_name=dataset_name,
        output_dir=output_dir,
        num_epochs=num_epochs,
    )
    typer.echo(format_command(COMMAND, flags))
    if execute:
        train_from_flags(flags_to_tokens(flags), resume=resume, overwrite=overwrite)


def _refuse_or_note(run: "ForeignRun") -> None:
    from loratory.config.foreign_file import describe_setting

    unknown = [f"--{finding.key}: {finding.reason}" for finding in run.findings if finding.kind == "unknown"]
    if unknown:
        raise ConfigError(unknown)
    for finding in run.findings:
        if finding.kind in {"not honoured", "approximated"}:
            note(f"{finding.kind}: {describe_setting(finding)}: {finding.reason}")
    ignored = [finding.key for finding in run.findings if finding.kind == "ignored"]
    if ignored:
        note(f"without influence here: {', '.join(ignored)}")


def _fitted_to_machine(config: "RunConfig") -> "RunConfig":
    """Mixed precision needs a GPU that has it; elsewhere the arithmetic is that of the weights."""
    import torch

    if config.train.precision in {"auto", "float32"} or torch.cuda.is_available():
        return config
    note(f"no GPU: trained in the precision of the weights instead of {config.train.precision}")
    train = config.train.model_copy(update={"precision": "auto"})
    return config.model_copy(update={"train": train})
