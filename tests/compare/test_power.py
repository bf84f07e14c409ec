"""Power: Connor's formula by hand, and by simulation."""

import math

import numpy as np
import pytest

from loratory.compare.power import detectable_difference, rows_needed
from loratory.compare.sign_test import sign_test


def row_sd(wins: float, losses: float) -> float:
    """Of differences of 100, -100 and 0 points with these rates."""
    return 100 * math.sqrt(wins + losses - (wins - losses) ** 2)


def test_connors_formula_by_hand() -> None:
    # p = 0.2, d = 0.1: ((1.95996 sqrt(0.2) + 0.84162 sqrt(0.19)) / 0.1)² = 154.07
    assert rows_needed(10.0, row_sd(0.15, 0.05)) == 155
    assert rows_needed(0.0, 30.0) is None
    many, one = rows_needed(10.0, 43.0, num_pairs=10), rows_needed(10.0, 43.0)
    assert many is not None
    assert one is not None
    assert many > one


def test_that_many_rows_find_the_difference_four_times_in_five() -> None:
    needed = rows_needed(10.0, row_sd(0.15, 0.05))
    assert needed is not None
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(needed, [0.15, 0.05, 0.8], size=1000)
    found = np.mean([sign_test(int(wins), int(losses)) <= 0.05 for wins, losses, _ in drawn])
    assert 0.70 < found < 0.85  # the exact test is a little strict


def test_detectable_difference_shrinks_with_the_root_of_the_rows() -> None:
    assert detectable_difference(40.0, 400) == pytest.approx(detectable_difference(40.0, 100) / 2)
    assert detectable_difference(10.0, 100) == pytest.approx(1.95996 + 0.84162, rel=1e-4)
