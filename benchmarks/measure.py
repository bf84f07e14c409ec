"""What a contestant measures about itself, and how it is started: one process after the other, nothing beside it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Measurement:
    """One contestant's run.

    Attributes:
        step_seconds: Wall time of each optimizer step.
        losses: Mean loss per supervised token of each step.
        peak_bytes: Peak resident memory from the first step on.
        base_bytes: Resident memory before the first step, weights loaded and touched.
        startup_seconds: From the start of the process to the first step.
        notes: Further figures.
    """

    step_seconds: list[float]
    losses: list[float]
    peak_bytes: int
    base_bytes: int
    startup_seconds: float
    notes: dict[str, float]

    def samples_per_s(self, batch_size: int) -> float:
        """Rate without the first step, which warms up."""
        steady = self.step_seconds[1:] or self.step_seconds
        return batch_size * len(steady) / sum(steady)


class Meter:
    """Stop-watch and memory gauge inside a contestant's process."""

    def __init__(self) -> None:
        self._process_start_s = _process_start_s()
        self._step_seconds: list[float] = []
        self._losses: list[float] = []
        self._base_bytes = 0
        self._startup_seconds = 0.0
        self._last_s = 0.0

    def begin(self, parameters: Iterable["torch.Tensor"]) -> None:
        """Call before the first step, with the model's parameters."""
        for parameter in parameters:
            parameter.detach().sum()  # memory-mapped weights count only once they are read
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
        self._base_bytes = _status_bytes("VmRSS")
        self._startup_seconds = time.time() - self._process_start_s
        self._last_s = time.perf_counter()

    def end_step(self, loss: float | None = None) -> None:
        """Call after each optimizer step."""
        now_s = time.perf_counter()
        self._step_seconds.append(now_s - self._last_s)
        self._last_s = now_s
        if loss is not None:
            self._losses.append(loss)

    def finish(
        self,
        path: Path,
        *,
        losses: Sequence[float] | None = None,
        step_seconds: Sequence[float] | None = None,
        notes: Mapping[str, float] | None = None,
    ) -> None:
        """Write the measurement for the parent process; losses or seconds known from elsewhere replace its own."""
        measurement = Measurement(
            step_seconds=list(step_seconds if step_seconds is not None else self._step_seconds),
            losses=list(losses if losses is not None else self._losses),
            peak_bytes=_status_bytes("VmHWM"),
            base_bytes=self._base_bytes,
            startup_seconds=self._startup_seconds,
            notes=dict(notes or {}),
        )
        path.write_text(json.dumps(asdict(measurement)))


def run(module: str, arguments: Sequence[str], *, num_threads: int, python_path: str | None = None) -> Measurement:
    """Run `python -m module arguments… RESULT` in a process of its own and read its measurement.

    Raises:
        SystemExit: The contestant failed; its last lines are shown.
    """
    root = Path(__file__).resolve().parents[1]
    result = Path(os.environ.get("TMPDIR", "/tmp")) / f"loratory-benchmark-{os.getpid()}.json"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(num_threads),
        "MKL_NUM_THREADS": str(num_threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), python_path])),
    }
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments, str(result)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{module} {' '.join(arguments)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    try:
        return Measurement(**json.loads(result.read_text()))
    finally:
        result.unlink(missing_ok=True)


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def _process_start_s() -> float:
    """When this process began, in seconds since the epoch."""
    ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    up_s = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - up_s + ticks / os.sysconf("SC_CLK_TCK")
