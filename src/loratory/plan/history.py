"""What past runs were forecast and what they measured: how wrong forecasts are, and the factor that mends them.

The factor of a machine and path is the median of measured over forecast; it is used from three runs on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from loratory.engine.forecast.record import PlanRecord, read_record

MIN_RUNS = 3
_MIN_STEPS = 2


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run that has ended.

    Attributes:
        name: Its folder's.
        record: What was written.
    """

    name: str
    record: PlanRecord

    @property
    def memory_ratio(self) -> float | None:
        """Measured over forecast peak; None where one of them is unknown."""
        assert self.record.measured is not None
        planned, measured = self.record.predicted.peak_bytes, self.record.measured.peak_bytes
        return measured / planned if measured and planned else None

    @property
    def time_ratio(self) -> float | None:
        """Measured over forecast time of a step; None where one of them is unknown."""
        record = self.record
        assert record.measured is not None
        if record.measured.step_seconds is None or not record.predicted.step_seconds or record.num_steps < _MIN_STEPS:
            return None
        return record.measured.step_seconds / record.predicted.step_seconds

    @property
    def is_exact(self) -> bool:
        """Whether trained numbers and files came out as forecast."""
        record = self.record
        assert record.measured is not None
        planned, measured = record.predicted, record.measured
        return (planned.trainable, planned.final_bytes, planned.checkpoint_bytes) == (
            measured.trainable,
            measured.final_bytes,
            measured.checkpoint_bytes,
        )


@dataclass(frozen=True, slots=True)
class Correction:
    """Factors for a machine and path.

    Attributes:
        memory: On the peak.
        time: On the time of a step.
        memory_runs: Runs that the first is the median of; 0: no correction.
        time_runs: Of the second.
    """

    memory: float = 1.0
    time: float = 1.0
    memory_runs: int = 0
    time_runs: int = 0


def past_runs(folder: Path) -> list[PastRun]:
    """Runs below a folder (or the one that it is) that have ended, by name."""
    found = []
    places = [folder, *sorted(folder.iterdir())] if folder.is_dir() else []
    for place in places:
        record = read_record(place) if place.is_dir() else None
        if record is not None and record.measured is not None:
            found.append(PastRun(place.name, record))
    return found


def correction(runs: Sequence[PastRun], *, machine: str, path: str) -> Correction:
    """The factors that runs of this machine and path give."""
    same = [run for run in runs if (run.record.machine, run.record.path) == (machine, path)]
    memory = [ratio for run in same if (ratio := run.memory_ratio) is not None]
    times = [ratio for run in same if (ratio := run.time_ratio) is not None]
    has_memory, has_time = len(memory) >= MIN_RUNS, len(times) >= MIN_RUNS
    return Correction(
        memory=median(memory) if has_memory else 1.0,
        time=median(times) if has_time else 1.0,
        memory_runs=len(memory) if has_memory else 0,
        time_runs=len(times) if has_time else 0,
    )


def errors(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Median, 90th percentile and largest of |forecast / measured - 1|, for at least one ratio."""
    found = sorted(abs(1 / ratio - 1) for ratio in ratios)
    return median(found), found[min(len(found) - 1, int(0.9 * len(found)))], found[-1]
