"""What a comparison found, as values: the interface to the command, the report and sweeps."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loratory.compare.run_facts import Cost
from loratory.compare.settings import Difference
from loratory.compare.test_set import TestSet
from loratory.run import write_text

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Setting:
    """Runs that differ in the seed only.

    Attributes:
        name: Short name.
        runs: Run directories.
        seeds: train.seed of each run.
        cost: Mean over the runs.
        is_base: The model before training, as a control.
    """

    name: str
    runs: tuple[str, ...]
    seeds: tuple[int | None, ...]
    cost: Cost
    is_base: bool = False


@dataclass(frozen=True, slots=True)
class SettingScore:
    """A metric of a setting, percent.

    Attributes:
        setting: Its name.
        value: Mean over its runs.
        low: Lower end of the 95 % bootstrap interval over rows, and seeds where there are several.
        high: Its upper end.
        runs: Each run's value.
        seed_sd: Standard deviation over the runs; None for one run.
    """

    setting: str
    value: float
    low: float
    high: float
    runs: tuple[float, ...]
    seed_sd: float | None


@dataclass(frozen=True, slots=True)
class Pair:
    """One setting against another by one metric, percent points.

    Attributes:
        first: The setting that is subtracted.
        second: The other one.
        difference: second - first.
        low: Lower end of its 95 % paired bootstrap interval.
        high: Its upper end.
        wins: Rows on which second is better; None for a metric without a value per row.
        losses: Rows on which first is.
        test: mcnemar (right or wrong answers), sign (graded ones) or bootstrap (several seeds, or no value per row).
        p: Two-sided p-value.
        p_holm: The same with Holm's correction over this metric's pairs.
        is_separable: Whether p_holm is at most 0.05 and the interval leaves out zero.
        rows_needed: Rows that would show a difference of this size with power 0.8; None without one, or if unknown.
        detectable: Difference that the rows at hand show with power 0.8; None if unknown.
        needs_seeds: Whether the seeds alone vary too much for a difference of this size, however many rows there are.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    wins: int | None
    losses: int | None
    test: str
    p: float
    p_holm: float
    is_separable: bool
    rows_needed: int | None
    detectable: float | None
    needs_seeds: bool

    @property
    def margin(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """One metric over all settings.

    Attributes:
        name: Its name.
        id: Name with what defines the number.
        definition: In words.
        num_rows: Rows that take part.
        scores: Of each setting.
        pairs: Setting against setting.
    """

    name: str
    id: str
    definition: str
    num_rows: int
    scores: tuple[SettingScore, ...]
    pairs: tuple[Pair, ...]

    def score(self, setting: str) -> SettingScore:
        """The score of a setting by its name."""
        return next(each for each in self.scores if each.setting == setting)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs compared on the same test rows.

    Attributes:
        predictions: Name of the predictions.
        test_set: The rows.
        settings: What is compared, in the order of the runs given.
        differences: Configuration keys that not all settings have in common.
        environment: Versions and machine facts that not all runs have in common.
        primary: Name of the metric that the verdict is about.
        metrics: All metrics.
        verdict: The primary metric's result in words, one sentence a pair.
        notes: What a reader should know.
    """

    predictions: str
    test_set: TestSet
    settings: tuple[Setting, ...]
    differences: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    primary: str
    metrics: tuple[MetricComparison, ...]
    verdict: tuple[str, ...]
    notes: tuple[str, ...]

    def metric(self, name: str) -> MetricComparison:
        """A metric by its name."""
        return next(each for each in self.metrics if each.name == name)

    @property
    def best(self) -> Setting:
        """The setting with the highest value of the primary metric; the first of equals."""
        scores = self.metric(self.primary).scores
        return self.settings[max(range(len(scores)), key=lambda index: scores[index].value)]


def comparison_to_json(comparison: Comparison) -> Mapping[str, Any]:
    """The comparison as plain JSON values."""
    return {"schema": SCHEMA, **asdict(comparison)}


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write the comparison as JSON; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(comparison_to_json(comparison), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")
