"""The table of a study: trials by their metric, what mattered, the noise beside them, and the best one."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

from loratory.report.importance import Importance, shares
from loratory.run import write_text
from loratory.sweep.candidates import Candidates, describe
from loratory.sweep.child import RunResult, loss_at, read_result
from loratory.sweep.noise import Noise
from loratory.sweep.space import Params, encode
from loratory.sweep.storage import StoredTrial

STUDY_FILE = "study.json"
_SHOWN_KEYS = 4


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial.

    Attributes:
        name: trial-N.
        params: Key -> value.
        setting: The same in words.
        state: complete, pruned, failed, running or waiting.
        value: Its metric, the mean over seeds.
        spread: Standard deviation over seeds; None for one seed.
        steps: Optimizer steps of the furthest run.
        seconds: Time of its runs.
        reason: Why it failed or did not go on.
        runs: Names of its run directories.
    """

    name: str
    params: Params
    setting: str
    state: str
    value: float | None
    spread: float | None
    steps: int
    seconds: float
    reason: str
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StudyTable:
    """A study at a glance.

    Attributes:
        name: Its name.
        folder: Its folder.
        metric: What is in `value`.
        maximizes: More is better.
        rows: Finished ones first, the best at the top.
        control: The metric of the base with one seed after the other.
        importance: Of each key that differs.
        measured_by: What the importance is of.
    """

    name: str
    folder: Path
    metric: str
    maximizes: bool
    rows: tuple[TrialRow, ...]
    control: tuple[float, ...]
    importance: tuple[Importance, ...]
    measured_by: str

    @property
    def best(self) -> TrialRow | None:
        """The best trial that has come to its end."""
        return self.rows[0] if self.rows and self.rows[0].value is not None else None

    @property
    def words(self) -> tuple[str, ...]:
        """What the study says, a sentence each: its best trial, the noise floor, what mattered."""
        noise = Noise(self.control) if len(self.control) > 1 else None
        lines = []
        if self.best is not None and self.best.value is not None:
            lines.append(f"best: {self.best.name} ({self.best.setting}), {self.metric} {self.best.value:.4f}")
            num_complete = sum(row.value is not None for row in self.rows)
            if noise is not None:
                num_seeds = len(self.best.runs)
                lines.append(noise.verdict(self.best.value, maximizes=self.maximizes, num_seeds=num_seeds))
            if num_complete > 1:
                lines.append(
                    f"it was chosen as the best of {num_complete} by these very numbers, which flatters it; confirm it "
                    "on rows that chose nothing"
                )
        if noise is not None:
            lines.append(noise.floor(self.metric))
        return (*lines, *self._importance_words())

    def _importance_words(self) -> tuple[str, ...]:
        known = [each for each in self.importance if each.share is not None and each.by_chance is not None]
        if not known:
            return ()
        parts = (
            f"{each.key} {100 * (each.share or 0):.0f} % ({100 * (each.by_chance or 0):.0f} % by chance alone)"
            for each in known[:_SHOWN_KEYS]
        )
        return (f"importance: share of the variance of {self.measured_by} that goes with {', '.join(parts)}",)


def study_table(found: Candidates, trials: Sequence[StoredTrial]) -> StudyTable:
    """Gather what is known of each trial."""
    section = found.file.section
    rows = [_row(found, trial) for trial in trials if trial.params]
    measured_by, measured = _measured(found, rows)
    levels = {
        axis.key: [str(encode(row.params[axis.key])) for row, _ in measured if axis.key in row.params]
        for axis in found.file.axes
    }
    importance = shares(levels, [value for _, value in measured])
    sign = -1.0 if section.maximizes else 1.0
    rows.sort(key=lambda row: (row.value is None, sign * (row.value or 0.0), -row.steps, row.name))
    control = [read_result(found.folder / "results", name) for name in found.control_names()]
    values = tuple(result.value for result in control if result is not None and result.value is not None)
    return StudyTable(
        name=found.file.name,
        folder=found.folder,
        metric=section.metric,
        maximizes=section.maximizes,
        rows=tuple(rows),
        control=values,
        importance=importance,
        measured_by=measured_by,
    )


def write_table(table: StudyTable) -> None:
    """Leave the table in the study's folder, for `loratory report` and other programs."""
    content = {
        "name": table.name,
        "metric": table.metric,
        "maximizes": table.maximizes,
        "words": table.words,
        "trials": [asdict(row) for row in table.rows],
        "control": table.control,
        "importance": [asdict(each) for each in table.importance],
        "measured_by": table.measured_by,
    }
    write_text(table.folder / STUDY_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _measured(found: Candidates, rows: Sequence[TrialRow]) -> tuple[str, list[tuple[TrialRow, float]]]:
    """What all trials are compared by: under halving their losses at the first selection, which all have seen."""
    section = found.file.section
    if not found.rungs:
        complete = [(row, row.value) for row in rows if row.value is not None]
        return f"{section.metric} between {len(complete)} trials", complete
    step = found.rungs[0]
    known = []
    for row in rows:
        losses = [loss_at(found.folder / name, step) for name in row.runs]
        values = [loss for loss in losses if loss is not None]
        if len(values) == len(losses):
            known.append((row, mean(values)))
    return f"eval_loss at step {step} between {len(known)} trials", known


def _row(found: Candidates, trial: StoredTrial) -> TrialRow:
    names = found.run_names(trial.number)
    known: list[RunResult] = []
    for name in names:
        result = read_result(found.folder / "results", name)
        if result is not None:
            known.append(result)
    values = [result.value for result in known if result.value is not None]
    return TrialRow(
        name=f"trial-{trial.number:03}",
        params=trial.params,
        setting=describe(trial.params),
        state=trial.state,
        value=trial.value,
        spread=stdev(values) if len(values) > 1 and trial.value is not None else None,
        steps=max((result.step for result in known), default=0),
        seconds=sum(result.seconds for result in known),
        reason=trial.reason,
        runs=names,
    )
