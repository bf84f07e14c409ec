"""Advantages: how much better an action was than expected. Numbers only, float64, no model and no gradient."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Scale = Literal["group", "batch", "none"]

STD_FLOOR = 1e-4
"""Added to a standard deviation of rewards before dividing by it."""
_VARIANCE_FLOOR = 1e-8
_SAME_REWARD = 1e-12


def generalised_advantages(rewards_A: Floats, values_A: Floats, *, gamma: float, decay: float) -> Floats:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16) of one answer's tokens.

    With `delta_t = r_t + gamma * V_{t+1} - V_t` and V = 0 behind the last token:
    `A_t = delta_t + gamma * decay * A_{t+1}`.

    Args:
        rewards_A: Reward of each token.
        values_A: Value of the state before each token.
        gamma: Discount per token.
        decay: Lambda: 0 is the one-step difference, 1 the whole return less the value.

    Returns:
        Advantages; `A + V` are the returns that the value head learns.
    """
    advantages_A = np.zeros(len(rewards_A), dtype=np.float64)
    next_value = next_advantage = 0.0
    for t in range(len(rewards_A) - 1, -1, -1):
        delta = rewards_A[t] + gamma * next_value - values_A[t]
        next_advantage = delta + gamma * decay * next_advantage
        next_value = values_A[t]
        advantages_A[t] = next_advantage
    return advantages_A


def whitened(values: Floats, *, shift: bool = True) -> Floats:
    """Values scaled to variance 1 and, with `shift`, moved to mean 0; equal ones become 0, or stay without `shift`."""
    if len(values) == 0:
        return values
    mean = values.mean()
    scaled: Floats = (values - mean) / np.sqrt(values.var() + _VARIANCE_FLOOR)
    return scaled if shift else scaled + mean


def group_advantages(rewards: Sequence[Floats], *, scale: Scale) -> list[Floats]:
    """Rewards of each group less the group's mean, divided by a standard deviation (GRPO, Shao et al. 2024).

    Args:
        rewards: Rewards of each prompt's answers.
        scale: 'group': the group's standard deviation (n - 1 in the denominator), 'batch': that of all rewards,
            'none': 1 (Dr. GRPO, Liu et al. 2025). A group of one has no deviation; its advantage is 0.
    """
    whole = np.concatenate([np.zeros(0), *rewards])
    batch_std = float(whole.std(ddof=1)) if len(whole) > 1 else 0.0
    advantages = []
    for group in rewards:
        if has_equal_rewards(group):
            advantages.append(np.zeros(len(group), dtype=np.float64))
            continue
        centred = group - group.mean()
        if scale == "none":
            advantages.append(centred)
            continue
        group_std = float(group.std(ddof=1)) if len(group) > 1 else 0.0
        advantages.append(centred / ((group_std if scale == "group" else batch_std) + STD_FLOOR))
    return advantages


def leave_one_out_advantages(rewards: Floats) -> Floats:
    """Each reward less the mean of the group's others (RLOO, Ahmadian et al. 2024); 0 for a group of one."""
    num = len(rewards)
    if num < 2 or has_equal_rewards(rewards):
        return np.zeros(num, dtype=np.float64)
    advantages: Floats = rewards - (rewards.sum() - rewards) / (num - 1)
    return advantages


def has_equal_rewards(rewards: Floats) -> bool:
    """Whether a group's rewards do not differ, so that nothing can be learnt from comparing them."""
    return bool(np.ptp(rewards) < _SAME_REWARD)


def explained_variance(values: Floats, returns: Floats) -> float | None:
    """Share of the returns' variance that the values explain: 1 is perfect, 0 no better than the mean; None without."""
    variance = returns.var() if len(returns) else 0.0
    return None if variance < _VARIANCE_FLOOR else float(1 - (returns - values).var() / variance)
