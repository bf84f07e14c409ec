"""How far a policy has moved from its start: estimates of the KL divergence from log-probabilities, and its control.

With x drawn from the policy p and the reference q: KL(p, q) = E[log p(x) - log q(x)]. The names k1 and k3 are those of
J. Schulman, "Approximating KL divergence" (2020).
"""

from typing import Literal

import torch

Estimator = Literal["k1", "k3"]

_MAX_ERROR = 0.2


def estimate_kl(policy_nats: torch.Tensor, reference_nats: torch.Tensor, *, estimator: Estimator) -> torch.Tensor:
    """Estimate of the KL divergence for each sampled token, in nats; differentiable.

    Args:
        policy_nats: Log-probability of each token under the policy that drew it.
        reference_nats: Under the reference.
        estimator: k1 is `log p - log q`: unbiased, and negative at times. k3 is `q / p - 1 - log(q / p)`: unbiased,
            never negative, of lower variance while p and q are near.
    """
    log_ratio = reference_nats - policy_nats
    return -log_ratio if estimator == "k1" else torch.expm1(log_ratio) - log_ratio


class KlController:
    """The weight of the KL in the reward: fixed, or steered towards a target.

    Steering is that of Ziegler et al., "Fine-Tuning Language Models from Human Preferences" (2019), section 2.2:
    the weight grows by `error * num_answers / horizon`, where error is the relative distance to the target, held
    within ±0.2.

    Args:
        coefficient: Weight at the start.
        target: KL per answer in nats; None keeps the weight.
        horizon: Answers over which steering acts.

    Attributes:
        coefficient: Weight now.
    """

    def __init__(self, coefficient: float, *, target: float | None = None, horizon: int = 10_000) -> None:
        self.coefficient = coefficient
        self._target = target
        self._horizon = horizon

    def update(self, kl_per_answer: float, *, num_answers: float) -> None:
        """Look at a rollout's mean KL per answer, in nats."""
        if self._target is None:
            return
        error = min(max(kl_per_answer / self._target - 1, -_MAX_ERROR), _MAX_ERROR)
        self.coefficient *= 1 + error * num_answers / self._horizon
