"""One metric of several settings: scores, and each pair's difference, test and power."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from loratory.compare.power import SIGNIFICANCE, detectable_difference, rows_needed
from loratory.compare.resampling import Resampled, bootstrap_p, interval
from loratory.compare.result import MetricComparison, Pair, SettingScore
from loratory.compare.sign_test import holm, sign_test
from loratory.evaluation.answer_metrics.family import Definition

# Standard errors by which a difference must exceed zero to be found at 5 % with power 0.8.
_FOUND = 1.96 + 0.84


def compare_metric(
    definition: Definition, drawn: Resampled, names: Sequence[str], pairs: Sequence[tuple[int, int]]
) -> MetricComparison:
    """Scores of the settings and the pairs asked for, Holm's correction over these pairs.

    Args:
        definition: The metric.
        drawn: Its resampled values.
        names: Of the settings.
        pairs: Places of the first and the second setting of each pair.
    """
    scores = tuple(_score(drawn, place, name) for place, name in enumerate(names))
    raw = [_pair(drawn, names, first, second, num_pairs=len(pairs)) for first, second in pairs]
    adjusted = holm([pair.p for pair in raw])
    return MetricComparison(
        name=definition.name,
        id=definition.id,
        definition=definition.words,
        num_rows=drawn.num_rows,
        scores=scores,
        pairs=tuple(
            replace(pair, p_holm=p, is_separable=p <= SIGNIFICANCE and (pair.low > 0 or pair.high < 0))
            for pair, p in zip(raw, adjusted, strict=True)
        ),
    )


def _score(drawn: Resampled, place: int, name: str) -> SettingScore:
    runs = drawn.run_values[place]
    low, high = interval(drawn.draws_RS[:, place])
    sd = float(np.std(runs, ddof=1)) if len(runs) > 1 else None
    return SettingScore(name, float(drawn.values_S[place]), low, high, runs, sd)


def _pair(drawn: Resampled, names: Sequence[str], first: int, second: int, *, num_pairs: int) -> Pair:
    difference = float(drawn.values_S[second] - drawn.values_S[first])
    draws_R = drawn.draws_RS[:, second] - drawn.draws_RS[:, first]
    low, high = interval(draws_R)
    has_seeds = max(len(drawn.run_values[first]), len(drawn.run_values[second])) > 1
    wins = losses = needed = detectable = None
    test, p = "bootstrap", bootstrap_p(draws_R)
    seed_error = _seed_error(drawn.run_values[first], drawn.run_values[second])
    needs_seeds = seed_error > 0 and abs(difference) < _FOUND * seed_error
    if drawn.rows_NS is not None:
        rows_N = drawn.rows_NS[:, second] - drawn.rows_NS[:, first]
        # Means over seeds are sums of thirds and the like: equal ones may differ in the last bit.
        rows_N = np.where(np.abs(rows_N) < 1e-9, 0.0, rows_N)
        wins, losses = int((rows_N > 0).sum()), int((rows_N < 0).sum())
        row_sd = float(rows_N.std())
        needed = None if needs_seeds else rows_needed(difference, row_sd, num_pairs=num_pairs)
        detectable = detectable_difference(row_sd, drawn.num_rows, num_pairs=num_pairs)
        if not has_seeds:
            is_binary = bool(np.isin(drawn.rows_NS[:, [first, second]], (0.0, 100.0)).all())
            test, p = "mcnemar" if is_binary else "sign", sign_test(wins, losses)
    return Pair(
        first=names[first],
        second=names[second],
        difference=difference,
        low=low,
        high=high,
        wins=wins,
        losses=losses,
        test=test,
        p=p,
        p_holm=p,
        is_separable=False,
        rows_needed=needed,
        detectable=detectable,
        needs_seeds=needs_seeds,
    )


def _seed_error(first: Sequence[float], second: Sequence[float]) -> float:
    """Standard error of the difference of two means over seeds, from the settings that have several."""
    variances = [float(np.var(runs, ddof=1)) / len(runs) for runs in (first, second) if len(runs) > 1]
    return float(np.sqrt(sum(variances)))
