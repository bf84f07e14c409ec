"""How much of the runs' differences in a metric goes with each key that differs. It describes; it proves nothing.

The share of variance between the values of one key is η² (between-group over total sum of squares). It is never zero by
chance: L values over n runs explain (L - 1) / (n - 1) of pure noise on average, so that number stands beside it. Where
a number differs from run to run, the squared rank correlation stands instead, whose chance value is 1 / (n - 1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loratory.compare import RunFacts
from loratory.compare.settings import SettingKey, setting_of

MIN_RUNS = 3


@dataclass(frozen=True, slots=True)
class Importance:
    """One key's share of the variance.

    Attributes:
        key: Dotted key; `train.seed` for the seed.
        share: Variance that goes with it, 0 to 1; None when it cannot be said.
        by_chance: What pure noise would give.
        num_values: Different values.
        num_runs: Runs.
        measure: eta² (groups) or rank correlation² (numbers that differ from run to run).
        together_with: Keys that change together with it, so that their shares are one.
    """

    key: str
    share: float | None
    by_chance: float | None
    num_values: int
    num_runs: int
    measure: str
    together_with: tuple[str, ...]


def importances(runs: Sequence[RunFacts], values: Mapping[Path, float]) -> tuple[Importance, ...]:
    """Shares of all keys that differ among runs, the largest first; those that say nothing last.

    Args:
        runs: The runs.
        values: Each run's metric.
    """
    runs = [run for run in runs if run.path in values]
    if len(runs) < 2:
        return ()
    absent = SettingKey("", "–")
    settings = [{**setting_of(run), "train.seed": SettingKey(str(run.seed), str(run.seed))} for run in runs]
    keys = sorted({key for each in settings for key in each})
    levels = {key: [each.get(key, absent).value for each in settings] for key in keys}
    return shares(levels, [values[run.path] for run in runs])


def shares(levels: Mapping[str, Sequence[str]], values: Sequence[float]) -> tuple[Importance, ...]:
    """Shares of the keys that differ, the largest first; those that say nothing last.

    Args:
        levels: Key -> its value in each run.
        values: Each run's metric.
    """
    values_N = np.array(values)
    differing = {key: found for key, found in levels.items() if len(set(found)) > 1}
    partitions = {key: _partition(found) for key, found in differing.items()}
    shown = [
        _importance(key, found, values_N, tuple(k for k, p in partitions.items() if k != key and p == partitions[key]))
        for key, found in differing.items()
    ]
    return tuple(sorted(shown, key=lambda each: (each.share is None, -(each.share or 0.0), each.key)))


def _importance(
    key: str, levels: Sequence[str], values_N: npt.NDArray[np.float64], together_with: tuple[str, ...]
) -> Importance:
    num_runs, num_values = len(levels), len(set(levels))
    total = float(((values_N - values_N.mean()) ** 2).sum())
    share: float | None = None
    by_chance: float | None = None
    measure = "eta²"
    if num_runs >= MIN_RUNS and total > 0:
        numbers = _numbers(levels)
        is_grouped = numbers is None or num_values == 2 or 2 * num_values <= num_runs
        if num_values < num_runs and is_grouped:
            share, by_chance = _eta_squared(levels, values_N, total), (num_values - 1) / (num_runs - 1)
        elif numbers is not None and num_runs > MIN_RUNS:
            measure = "rank correlation²"
            share = float(np.corrcoef(_ranks(numbers), _ranks(values_N))[0, 1] ** 2)
            by_chance = 1 / (num_runs - 1)
    return Importance(key, share, by_chance, num_values, num_runs, measure, together_with)


def _eta_squared(levels: Sequence[str], values_N: npt.NDArray[np.float64], total: float) -> float:
    found = np.array(levels)
    between = sum(
        float((found == level).sum() * (values_N[found == level].mean() - values_N.mean()) ** 2)
        for level in sorted(set(levels))
    )
    return between / total


def _partition(levels: Sequence[str]) -> tuple[int, ...]:
    """Which runs have the same value, whatever the value is."""
    places: dict[str, int] = {}
    return tuple(places.setdefault(level, len(places)) for level in levels)


def _numbers(levels: Sequence[str]) -> npt.NDArray[np.float64] | None:
    try:
        return np.array([float(level) for level in levels])
    except ValueError:
        return None


def _ranks(values_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 0; equal values share their mean rank."""
    below = (values_N[:, None] > values_N[None, :]).sum(axis=1)
    equal = (values_N[:, None] == values_N[None, :]).sum(axis=1)
    ranks: npt.NDArray[np.float64] = below + (equal - 1) / 2
    return ranks
