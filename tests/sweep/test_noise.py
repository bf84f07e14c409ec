"""The noise floor, by hand."""

import math

import pytest

from loratory.sweep.noise import Noise, student_t


def test_one_more_seed_lies_within_students_prediction_interval() -> None:
    noise = Noise([1.0, 2.0, 3.0])  # mean 2, standard deviation 1
    assert noise.reach() == pytest.approx(4.303 * math.sqrt(1 + 1 / 3))
    assert noise.reach(3) == pytest.approx(4.303 * math.sqrt(1 / 3 + 1 / 3))
    assert "2.0000 ± 1.0000 over 3 seeds (from 1.0000 to 3.0000)" in noise.floor("loss")


def test_a_gain_counts_in_the_metrics_own_direction_and_beyond_the_noise_only() -> None:
    noise = Noise([1.0, 1.01, 0.99])
    assert "0.5000 better than the base's mean, beyond" in noise.verdict(0.5, maximizes=False, num_seeds=1)
    assert "0.5000 worse than the base's mean, beyond" in noise.verdict(0.5, maximizes=True, num_seeds=1)
    assert "within the noise" in noise.verdict(0.98, maximizes=False, num_seeds=1)


@pytest.mark.parametrize(("degrees", "expected"), [(1, 12.706), (10, 2.228), (11, 2.201), (20, 2.086), (1000, 1.962)])
def test_students_t(degrees: int, expected: float) -> None:
    assert student_t(degrees) == pytest.approx(expected, abs=0.006)
