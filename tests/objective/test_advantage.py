"""Advantages computed by hand."""

import numpy as np
import pytest

from loratory.objective.advantage import (
    explained_variance,
    generalised_advantages,
    group_advantages,
    leave_one_out_advantages,
    whitened,
)


def test_gae_by_hand() -> None:
    # delta_2 = 1 - 0.5 = 0.5; delta_1 = 0 + 0.9*0.5 - 0.4 = 0.05; delta_0 = -0.1 + 0.9*0.4 - 0.2 = 0.06
    # A_2 = 0.5; A_1 = 0.05 + 0.9*0.8*0.5 = 0.41; A_0 = 0.06 + 0.72*0.41 = 0.3552
    advantages = generalised_advantages(np.array([-0.1, 0.0, 1.0]), np.array([0.2, 0.4, 0.5]), gamma=0.9, decay=0.8)
    np.testing.assert_allclose(advantages, [0.3552, 0.41, 0.5], atol=1e-12)


def test_gae_ends() -> None:
    rewards, values = np.array([0.5, -0.2, 2.0]), np.array([0.1, 0.7, -0.4])
    # lambda 0: one step ahead; lambda 1 and gamma 1: what is still to come less the value.
    one_step = generalised_advantages(rewards, values, gamma=1.0, decay=0.0)
    np.testing.assert_allclose(one_step, [0.5 + 0.7 - 0.1, -0.2 - 0.4 - 0.7, 2.0 + 0.4])
    whole = generalised_advantages(rewards, values, gamma=1.0, decay=1.0)
    np.testing.assert_allclose(whole, np.array([2.3, 1.8, 2.0]) - values)


def test_whitening() -> None:
    values = np.array([1.0, 2.0, 3.0, 6.0])  # mean 3, variance 3.5
    np.testing.assert_allclose(whitened(values), (values - 3) / np.sqrt(3.5), rtol=1e-6)
    np.testing.assert_allclose(whitened(values, shift=False), (values - 3) / np.sqrt(3.5) + 3, rtol=1e-6)
    assert whitened(np.array([0.7])).tolist() == [0.0]
    assert whitened(np.zeros(0)).size == 0


def test_group_advantages_by_hand() -> None:
    rewards = [np.array([1.0, 0.0, 0.0, 1.0]), np.array([2.0, 4.0])]
    # standard deviations with n - 1: sqrt(1/3), sqrt(2)
    group = group_advantages(rewards, scale="group")
    np.testing.assert_allclose(group[0], np.array([0.5, -0.5, -0.5, 0.5]) / (np.sqrt(1 / 3) + 1e-4))
    np.testing.assert_allclose(group[1], np.array([-1.0, 1.0]) / (np.sqrt(2) + 1e-4))
    none = group_advantages(rewards, scale="none")
    assert [own.tolist() for own in none] == [[0.5, -0.5, -0.5, 0.5], [-1.0, 1.0]]
    whole = np.std([1, 0, 0, 1, 2, 4], ddof=1)
    np.testing.assert_allclose(group_advantages(rewards, scale="batch")[1], np.array([-1.0, 1.0]) / (whole + 1e-4))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_rewards_and_single_answers_teach_nothing(scale: str) -> None:
    # 0.1 added three times is not 0.3: the mean of equal numbers may differ from them in the last bit.
    rewards = [np.full(3, 0.1 + 0.2), np.array([5.0]), np.array([0.0, 1.0])]
    advantages = group_advantages(rewards, scale=scale)  # type: ignore[arg-type]
    assert not advantages[0].any()
    assert advantages[1].tolist() == [0.0]
    assert advantages[2].any()
    assert leave_one_out_advantages(rewards[0]).tolist() == [0.0, 0.0, 0.0]
    assert leave_one_out_advantages(rewards[1]).tolist() == [0.0]


def test_leave_one_out_by_hand() -> None:
    np.testing.assert_allclose(leave_one_out_advantages(np.array([3.0, 0.0, 6.0])), [0.0, -4.5, 4.5])


def test_explained_variance() -> None:
    returns = np.array([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(np.full(3, 2.0), returns) == pytest.approx(0.0)
    assert explained_variance(-returns, returns) == pytest.approx(-3.0)
    assert explained_variance(returns, np.ones(3)) is None
