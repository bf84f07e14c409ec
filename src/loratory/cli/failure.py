"""Failures on the command line: one message and an exit code for what is expected, a traceback for what is a bug."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from loratory.cli.console import quiet_libraries, say
from loratory.errors import LoratoryError, ResourceError


@contextmanager
def failures_as_exit_codes() -> Iterator[None]:
    """The frame of every command: report an expected failure on stderr and leave with its exit code.

    A bug keeps its traceback. Libraries imported inside are kept quiet.

    Raises:
        SystemExit: With the code of the `LoratoryError`; 130 after Ctrl-C; 5 when memory or disk ran out.
    """
    quiet_libraries()
    try:
        yield
    except LoratoryError as error:
        say("error", str(error), colour=typer.colors.RED)
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt as error:
        say("stopped", "interrupted", colour=typer.colors.YELLOW)
        raise SystemExit(130) from error
    except (MemoryError, OSError, RuntimeError) as error:
        advice = _resource_advice(error)
        if advice is None:
            raise
        say("error", advice, colour=typer.colors.RED)
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
