"""How a run ended that did not finish: stopped or failed, and why. A finished run has its final model instead."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from loratory.errors import InterruptedRunError, LoratoryError
from loratory.run.commit import write_text

ENDING_NAME = ".ending.json"


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a run is not finished.

    Attributes:
        is_failure: Whether something went wrong; else it was stopped or paused.
        reason: In words.
    """

    is_failure: bool
    reason: str


def ending_of(error: BaseException | None) -> Ending:
    """The ending that leaving with this error is; None: without one, before the run was finished."""
    if error is None:
        return Ending(False, "paused")
    if isinstance(error, InterruptedRunError | KeyboardInterrupt):
        return Ending(False, str(error) or "interrupted")
    return Ending(True, str(error) if isinstance(error, LoratoryError) else f"{type(error).__name__}: {error}")


def write_ending(run_path: Path, ending: Ending) -> None:
    """Leave the ending in a run directory."""
    write_text(run_path / ENDING_NAME, json.dumps(asdict(ending), ensure_ascii=False) + "\n")


def read_ending(run_path: Path) -> Ending | None:
    """The ending of a run; None when it left none: it is finished, goes on, or was killed."""
    try:
        found = json.loads((run_path / ENDING_NAME).read_text(encoding="utf-8"))
        return Ending(bool(found["is_failure"]), str(found["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
