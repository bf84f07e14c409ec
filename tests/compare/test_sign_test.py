"""Exact tests against numbers computed by hand."""

import math

import pytest

from loratory.compare.sign_test import holm, sign_test


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (0, 0, 1.0),
        (5, 0, 2 / 32),
        (6, 0, 2 / 64),
        (1, 7, 2 * (1 + 8) / 256),
        (3, 3, 1.0),
        (2, 10, 2 * (1 + 12 + 66) / 4096),
    ],
)
def test_equals_the_binomial_sum(wins: int, losses: int, p: float) -> None:
    assert sign_test(wins, losses) == pytest.approx(p, rel=1e-12)
    assert sign_test(losses, wins) == sign_test(wins, losses)


def test_is_exact_for_counts_that_overflow_a_power_of_two() -> None:
    exact = 2 * sum(math.comb(2000, k) for k in range(951)) / 2**2000
    assert sign_test(950, 1050) == pytest.approx(exact, rel=1e-9)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.03, 0.04: 3 x 0.01, 2 x 0.03, and 1 x 0.04 raised to the one before it.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx((0.06, 0.03, 0.06))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([]) == ()
