"""The table of a study: trials by their metric, the noise beside them, and the best one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from loratory.sweep.candidates import Candidates, describe
from loratory.sweep.child import RunResult, read_result
from loratory.sweep.storage import StoredTrial


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial.

    Attributes:
        name: trial-N.
        setting: Its parameters in words.
        state: complete, pruned, failed, running or waiting.
        value: Its metric, the mean over seeds.
        spread: Standard deviation over seeds; None for one seed.
        steps: Optimizer steps of the furthest run.
        seconds: Time of its runs.
        reason: Why it failed or did not go on.
        runs: Its run directories.
    """

    name: str
    setting: str
    state: str
    value: float | None
    spread: float | None
    steps: int
    seconds: float
    reason: str
    runs: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class StudyTable:
    """A study at a glance.

    Attributes:
        folder: The study's folder.
        metric: What is in `value`.
        maximizes: More is better.
        rows: Finished ones first, the best at the top.
        control: The metric of the base with one seed after the other.
    """

    folder: Path
    metric: str
    maximizes: bool
    rows: tuple[TrialRow, ...]
    control: tuple[float, ...]

    @property
    def best(self) -> TrialRow | None:
        """The best trial that has come to its end."""
        return self.rows[0] if self.rows and self.rows[0].value is not None else None

    @property
    def noise(self) -> str:
        """What the control says, in words; empty without one."""
        if len(self.control) < 2:
            return ""
        return (
            f"the base alone gives {mean(self.control):.4f} ± {stdev(self.control):.4f} over {len(self.control)} seeds "
            f"(from {min(self.control):.4f} to {max(self.control):.4f}): smaller differences are noise"
        )


def study_table(found: Candidates, trials: Sequence[StoredTrial]) -> StudyTable:
    """Gather what is known of each trial."""
    results, section = found.folder / "results", found.file.section
    rows = [_row(found, results, trial) for trial in trials if trial.params]
    sign = -1.0 if section.maximizes else 1.0
    rows.sort(key=lambda row: (row.value is None, sign * (row.value or 0.0), -row.steps, row.name))
    control = [read_result(results, config.run.name) for config in found.control_configs()]
    values = tuple(result.value for result in control if result is not None and result.value is not None)
    return StudyTable(found.folder, section.metric, section.maximizes, tuple(rows), values)


def _row(found: Candidates, results: Path, trial: StoredTrial) -> TrialRow:
    configs = found.configs(trial.number, trial.params)
    known: list[RunResult] = []
    for config in configs:
        result = read_result(results, config.run.name)
        if result is not None:
            known.append(result)
    values = [result.value for result in known if result.value is not None]
    return TrialRow(
        name=f"trial-{trial.number:03}",
        setting=describe(trial.params),
        state=trial.state,
        value=trial.value,
        spread=stdev(values) if len(values) > 1 and trial.value is not None else None,
        steps=max((result.step for result in known), default=0),
        seconds=sum(result.seconds for result in known),
        reason=trial.reason,
        runs=tuple(found.folder / config.run.name for config in configs),
    )
