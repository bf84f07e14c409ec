"""The bootstrap against the normal approximation and its own seed."""

import numpy as np
import pytest

from loratory.evaluation import bootstrap
from loratory.evaluation.bootstrap import bootstrap_interval


def test_interval_is_near_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(50, 10, size=2000)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.1)
    assert high == pytest.approx(values.mean() + half, abs=0.1)


def test_equal_seed_equal_interval_and_other_seed_another() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_blocks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=50)
    whole = bootstrap_interval(values)
    monkeypatch.setattr(bootstrap, "_MAX_DRAWS", 60 * 50)
    assert bootstrap_interval(values) == whole


def test_one_row_has_no_width_and_no_row_is_refused() -> None:
    assert bootstrap_interval(np.array([7.0])) == (7.0, 7.0)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval(np.array([]))
