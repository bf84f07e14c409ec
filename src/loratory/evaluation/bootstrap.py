"""Percentile bootstrap of a mean: the error bar of every score. Deterministic for a given seed."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

_MAX_DRAWS = 1 << 22


def bootstrap_interval(
    values_N: npt.NDArray[np.float64],
    *,
    weights_N: npt.NDArray[np.float64] | None = None,
    seed: int = 0,
    num_resamples: int = 1000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Interval of the mean by resampling rows with replacement.

    Args:
        values_N: One value per row, at least one row.
        weights_N: Weight of each row in the mean; None weighs all alike. Rows are resampled with their weights.
        seed: Seed of the resampling; equal seeds give equal intervals.
        num_resamples: Resampled means drawn.
        confidence: Share of the resampled means inside the interval.

    Returns:
        The (1 - confidence) / 2 and (1 + confidence) / 2 quantiles of the resampled means
        (Efron and Tibshirani 1993, percentile method).
    """
    num_rows = len(values_N)
    if num_rows == 0:
        raise ValueError("bootstrap_interval needs at least one value")
    generator = np.random.default_rng(seed)
    rows_per_block = max(1, _MAX_DRAWS // num_rows)
    means = np.empty(num_resamples)
    for start in range(0, num_resamples, rows_per_block):
        stop = min(start + rows_per_block, num_resamples)
        draws = generator.integers(0, num_rows, size=(stop - start, num_rows))
        if weights_N is None:
            means[start:stop] = values_N[draws].mean(axis=1)
        else:
            drawn = weights_N[draws]
            means[start:stop] = (values_N[draws] * drawn).sum(axis=1) / drawn.sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_statistic(
    values_NK: npt.NDArray[np.float64],
    combine: Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    *,
    seed: int = 0,
    num_resamples: int = 1000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Interval of a number that is made of sums over rows, by resampling rows with replacement.

    Args:
        values_NK: K statistics for each row, at least one row.
        combine: Sums [R, K] and numbers of rows [R] to values [R].
        seed: Seed of the resampling; the rows drawn are those of `bootstrap_interval`.
        num_resamples: Resampled values drawn.
        confidence: Share of them inside the interval.
    """
    num_rows = len(values_NK)
    if num_rows == 0:
        raise ValueError("bootstrap_statistic needs at least one row")
    generator = np.random.default_rng(seed)
    rows_per_block = max(1, _MAX_DRAWS // num_rows)
    results = np.empty(num_resamples)
    for start in range(0, num_resamples, rows_per_block):
        stop = min(start + rows_per_block, num_resamples)
        draws = generator.integers(0, num_rows, size=(stop - start, num_rows))
        times_RN = np.stack([np.bincount(row, minlength=num_rows) for row in draws]).astype(np.float64)
        results[start:stop] = combine(times_RN @ values_NK, np.full(stop - start, float(num_rows)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(results, [tail, 1 - tail])
    return float(low), float(high)
