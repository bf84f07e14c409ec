"""What a child process of a test does: train a configuration and end with the exit code that a user would see."""

import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

import transformers
from rich.console import Console

from loratory.config import RunConfig
from loratory.engine import saver
from loratory.engine.training import run_training
from loratory.errors import LoratoryError


def train(config: RunConfig, resume: bool, log: Path, environment: Mapping[str, str] | None = None) -> None:
    """Train; what a user would read goes to `log`."""
    os.environ.update(environment or {})
    transformers.utils.logging.disable_progress_bar()
    with log.open("a") as file:
        try:
            run_training(config, resume=resume, console=Console(file=file))
        except LoratoryError as error:
            file.write(f"{type(error).__name__}: {error}\n")
            file.flush()
            sys.exit(error.exit_code)


def train_on_a_full_disk(config: RunConfig, full_steps: tuple[int, ...], log: Path) -> None:
    """Train while the system refuses files of more than 8 KiB during the saves of some steps."""
    real = saver.Saver.save
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save(self, step, write, **options):  # type: ignore[no-untyped-def]
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192 if step in full_steps else soft, hard))
        try:
            return real(self, step, write, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    saver.Saver.save = save  # type: ignore[method-assign]
    train(config, False, log)
