"""Exact sign test, McNemar's test among them, and Holm's correction for several pairs."""

from collections.abc import Sequence

import numpy as np


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact binomial p-value of `wins` against `losses` when both are equally likely.

    On answers that are right or wrong this is McNemar's exact test: wins and losses are the discordant rows. Rows where
    both are alike say nothing and are left out. No approximation is used, whatever the counts.

    Returns:
        2 P(X <= min(wins, losses)) for X ~ Binomial(wins + losses, 1/2), at most 1; 1 when there is no such row.
    """
    num_rows = wins + losses
    if num_rows == 0:
        return 1.0
    upto = min(wins, losses)
    # log C(n, k) = sum over i <= k of log((n - i + 1) / i)
    i = np.arange(1, upto + 1, dtype=np.float64)
    log_terms = np.concatenate([[0.0], np.cumsum(np.log((num_rows - i + 1) / i))]) - num_rows * np.log(2.0)
    largest = float(log_terms.max())
    tail = float(np.exp(largest) * np.exp(log_terms - largest).sum())
    return min(1.0, 2.0 * tail)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P-values adjusted for their number (Holm 1979), in the given order: below 0.05 all together hold at 5 %."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)
