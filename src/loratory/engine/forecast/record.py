"""plan.json in a run directory: what was forecast when the run began, and what was measured when it ended.

Writing it never stops a run: a forecast that cannot be made is left out, and says why.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loratory.engine.forecast.run_forecast import RunForecast
from loratory.run.commit import write_text

PLAN_NAME = "plan.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Figures:
    """What forecast and measurement both have.

    Attributes:
        trainable: Trained numbers.
        peak_bytes: Highest memory of the training process, or of its GPU; None if shared or not known.
        step_seconds: Mean time of an optimizer step, without the first of a run; None if unknown or shared.
        final_bytes: Tensors of the result on disk.
        checkpoint_bytes: Tensors of a checkpoint on disk, without the generators'.
    """

    trainable: int
    peak_bytes: int | None
    step_seconds: float | None
    final_bytes: int
    checkpoint_bytes: int


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """The content of plan.json.

    Attributes:
        machine: Fingerprint of the machine.
        path: The scorer's.
        predicted: Without corrections from earlier runs.
        measured: None until the run has ended.
        num_steps: Steps that `measured` is the mean of.
    """

    machine: str
    path: str
    predicted: Figures
    measured: Figures | None
    num_steps: int = 0


def predicted_figures(forecast: RunForecast) -> Figures:
    """A forecast as figures."""
    return Figures(
        trainable=forecast.size.trained,
        peak_bytes=forecast.memory.total,
        step_seconds=forecast.step_seconds,
        final_bytes=forecast.disk.final,
        checkpoint_bytes=forecast.disk.checkpoint,
    )


def tensor_bytes(folder: Path | None, *, except_names: tuple[str, ...] = ()) -> int:
    """Bytes of the safetensors files in a folder; 0 without one."""
    if folder is None or not folder.is_dir():
        return 0
    return sum(f.stat().st_size for f in folder.glob("*.safetensors") if f.name not in except_names)


def write_record(run_path: Path, record: PlanRecord) -> None:
    """Put the record into a run directory."""
    write_text(run_path / PLAN_NAME, json.dumps({"format": FORMAT, **asdict(record)}, indent=1) + "\n")


def read_record(run_path: Path) -> PlanRecord | None:
    """The record of a run; None without one, or if it is not one of this version."""
    try:
        found: Mapping[str, Any] = json.loads((run_path / PLAN_NAME).read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            return None
        measured = found["measured"]
        return PlanRecord(
            machine=str(found["machine"]),
            path=str(found["path"]),
            predicted=Figures(**found["predicted"]),
            measured=None if measured is None else Figures(**measured),
            num_steps=int(found["num_steps"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
