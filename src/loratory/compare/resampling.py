"""Paired bootstrap: rows are drawn once for all settings, seeds within each setting.

The rows are the shared part of the noise, so a difference between two settings is much surer than the two intervals
suggest. Where a setting was trained with several seeds, its runs are drawn too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loratory.evaluation.answer_metrics.family import Statistics

FloatArray = npt.NDArray[np.float64]

_MAX_DRAWS = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """One metric of several settings, resampled together.

    Attributes:
        values_S: Value of each setting, the mean over its runs, percent.
        draws_RS: The same in each resample.
        run_values: Values of each setting's runs.
        rows_NS: Each row's mean over a setting's runs; None for a metric without a value per row.
        num_rows: Rows that take part.
    """

    values_S: FloatArray
    draws_RS: FloatArray
    run_values: tuple[tuple[float, ...], ...]
    rows_NS: FloatArray | None
    num_rows: int


def resample(settings: Sequence[Sequence[Statistics]], *, seed: int = 0, num_resamples: int = 2000) -> Resampled | None:
    """Resample rows, and the runs of each setting, with replacement.

    Of a setting's k runs, k - 1 are drawn: their mean then varies by s² / k, s being the runs' standard deviation, as
    the mean of k independent runs does (Rao and Wu 1988); k draws would vary by less. A single run stays.

    Args:
        settings: One metric's statistics of the same rows, for each run of each setting.
        seed: Seed of the resampling; equal seeds give equal intervals.
        num_resamples: Resamples drawn.

    Returns:
        The values; None when no row takes part in the metric.
    """
    runs = [run for setting in settings for run in setting]
    takes_part = np.all([~np.isnan(run.values_NK).any(axis=1) for run in runs], axis=0)
    num_rows = int(takes_part.sum())
    if num_rows == 0:
        return None
    values = [run.values_NK[takes_part] for run in runs]
    counts_1 = np.array([float(num_rows)])
    points = [
        float(run.combine(v.sum(axis=0, keepdims=True), counts_1)[0]) for run, v in zip(runs, values, strict=True)
    ]
    generator = np.random.default_rng(seed)
    columns = np.concatenate(values, axis=1)
    edges = np.cumsum([v.shape[1] for v in values])[:-1]
    draws_RM = np.empty((num_resamples, len(runs)))
    rows_per_block = max(1, _MAX_DRAWS // num_rows)
    for start in range(0, num_resamples, rows_per_block):
        stop = min(start + rows_per_block, num_resamples)
        drawn = generator.integers(0, num_rows, size=(stop - start, num_rows))
        times_RN = np.stack([np.bincount(row, minlength=num_rows) for row in drawn]).astype(np.float64)
        counts_R = np.full(stop - start, float(num_rows))
        sums = np.split(times_RN @ columns, edges, axis=1)
        for place, (run, sums_RK) in enumerate(zip(runs, sums, strict=True)):
            draws_RM[start:stop, place] = run.combine(sums_RK, counts_R)
    groups = np.split(np.arange(len(runs)), np.cumsum([len(setting) for setting in settings])[:-1])
    draws_RS = np.stack([_draw_runs(draws_RM[:, group], generator) for group in groups], axis=1)
    run_values = tuple(tuple(points[index] for index in group) for group in groups)
    has_rows = all(v.shape[1] == 1 for v in values)
    rows_NS = np.stack([columns[:, group].mean(axis=1) for group in groups], axis=1) if has_rows else None
    return Resampled(np.array([np.mean(each) for each in run_values]), draws_RS, run_values, rows_NS, num_rows)


def interval(draws_R: FloatArray, *, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of resampled values."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws_R, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_p(draws_R: FloatArray) -> float:
    """Two-sided p-value of a difference: twice the smaller share of resamples on either side of zero."""
    below, above = int((draws_R <= 0).sum()), int((draws_R >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(draws_R) + 1))


def _draw_runs(draws_RK: FloatArray, generator: np.random.Generator) -> FloatArray:
    num_resamples, num_runs = draws_RK.shape
    if num_runs == 1:
        return draws_RK[:, 0]
    chosen = generator.integers(0, num_runs, size=(num_resamples, num_runs - 1))
    drawn: FloatArray = np.take_along_axis(draws_RK, chosen, axis=1).mean(axis=1)
    return drawn
