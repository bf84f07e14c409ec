"""The paired bootstrap against closed forms."""

import numpy as np
import pytest

from loratory.compare.resampling import bootstrap_p, interval, resample
from loratory.evaluation.answer_metrics.classes import Classes
from loratory.evaluation.answer_metrics.family import Statistics


def of_rows(values: list[float]) -> Statistics:
    return Statistics.of_rows(values)


def test_equal_runs_differ_by_nothing_in_every_resample() -> None:
    rows = of_rows([0.0, 100.0] * 40)
    found = resample([[rows], [rows]])
    assert found is not None
    assert found.values_S.tolist() == [50.0, 50.0]
    assert np.all(found.draws_RS[:, 0] == found.draws_RS[:, 1])
    assert np.ptp(found.draws_RS[:, 0]) > 0  # rows were drawn at all


def test_the_spread_of_a_difference_is_that_of_the_rows_differences() -> None:
    generator = np.random.default_rng(3)
    first = generator.normal(50, 30, 400)
    second = first + generator.normal(1, 5, 400)
    found = resample([[of_rows(list(first))], [of_rows(list(second))]], num_resamples=4000)
    assert found is not None
    spread = (found.draws_RS[:, 1] - found.draws_RS[:, 0]).std()
    assert spread == pytest.approx((second - first).std() / 20, rel=0.05)
    assert spread < found.draws_RS[:, 0].std() / 3  # pairing is what makes it small


@pytest.mark.parametrize("num_runs", [2, 3, 5])
def test_seeds_add_the_variance_of_their_mean(num_runs: int) -> None:
    """Rows without noise: what is left is the seeds' own, s² / k."""
    values = [10.0 * i for i in range(num_runs)]
    found = resample([[of_rows([value] * 20) for value in values]], num_resamples=20000)
    assert found is not None
    assert found.draws_RS.var() == pytest.approx(np.var(values, ddof=1) / num_runs, rel=0.05)
    assert found.run_values == (tuple(values),)


def test_rows_left_out_by_the_metric_take_no_part() -> None:
    nan = float("nan")
    found = resample([[of_rows([0.0, nan, 100.0])], [of_rows([100.0, nan, 100.0])]])
    assert found is not None
    assert (found.num_rows, found.values_S.tolist()) == (2, [50.0, 100.0])
    assert resample([[of_rows([nan, nan])]]) is None


def test_metrics_of_the_whole_set_are_resampled_too() -> None:
    labels = ["a", "b"] * 30
    right = Classes(rule="answer").measure(labels, labels, ["macro_f1"])["macro_f1"]
    half = Classes(rule="answer").measure(["a"] * 60, labels, ["macro_f1"])["macro_f1"]
    found = resample([[right], [half]])
    assert found is not None
    assert found.rows_NS is None
    assert found.values_S == pytest.approx([100.0, 100 / 3])  # F1 of a: 2/3, of b: 0
    low, high = interval(found.draws_RS[:, 0] - found.draws_RS[:, 1])
    assert low < 200 / 3 < high
    assert bootstrap_p(found.draws_RS[:, 0] - found.draws_RS[:, 1]) < 0.01


def test_equal_seeds_give_equal_draws() -> None:
    runs = [[of_rows([0.0, 100.0, 30.0] * 9)]]
    first, again, other = (resample(runs, seed=seed) for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert np.array_equal(first.draws_RS, again.draws_RS)
    assert not np.array_equal(first.draws_RS, other.draws_RS)
