"""PPO for language models: a policy with a value head, rewarded at an answer's end and taxed for every token's KL.

One answer is an episode, one token an action. The value head sits on the policy's own hidden states, so values cost no
second model. Sources: Schulman et al. 2017 (clipping), Ziegler et al. 2019 (KL in the reward, its controller), Ouyang
et al. 2022.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from loratory.objective.advantage import explained_variance, generalised_advantages, whitened
from loratory.objective.answer_scores import Floats, fact, per_row, per_use
from loratory.objective.kl import Estimator, KlController, estimate_kl
from loratory.objective.loss import LossSum
from loratory.objective.rollout import Answer, Rollout
from loratory.objective.rollout_objective import (
    OLD_NATS,
    Metrics,
    RolloutObjective,
    UpdatePlan,
    answer_row,
    reference_scores,
)
from loratory.objective.row import Batch, Row, batch_of
from loratory.objective.sampled import Experience, Policy
from loratory.objective.surrogate import clipped_surrogate, clipped_value_loss
from loratory.objective.value_head import ValueHead, value_head_for
from loratory.tree.scorer import Scorer

_TOKEN_REWARDS = "token_rewards"
_OLD_VALUES = "old_values"
_ADVANTAGES = "advantages"
_RETURNS = "returns"


@dataclass(frozen=True, slots=True)
class PpoSettings:
    """The knobs of PPO, named as in section objective.ppo."""

    clip_epsilon: float = 0.2
    value_clip: float | None = 0.2
    value_coefficient: float = 0.1
    value_trains_trunk: bool = True
    entropy_coefficient: float = 0.0
    gamma: float = 1.0
    gae_lambda: float = 0.95
    kl_estimator: Estimator = "k1"
    whiten_rewards: bool = False
    whiten_advantages: bool = True


class PpoObjective(RolloutObjective):
    """Clipped policy loss + weighted value loss - weighted entropy, averaged over tokens.

    Args:
        rollout: Lets the policy answer.
        plan: How answers are used.
        settings: The knobs.
        controller: Weight of the KL in the reward.
    """

    name = "ppo"

    def __init__(self, rollout: Rollout, plan: UpdatePlan, *, settings: PpoSettings, controller: KlController) -> None:
        super().__init__(rollout, plan)
        self._settings = settings
        self._controller = controller
        self._head: ValueHead | None = None

    def attach(self, model: PreTrainedModel | PeftModel, *, seed: int) -> torch.nn.Module:
        """The value head."""
        self._head = value_head_for(model, seed=seed)
        return self._head

    def settle(self, rows: Sequence[Row]) -> Experience:
        """Advantages and returns of the whole rollout, whitened over it."""
        settings = self._settings
        rewards = [row.facts[_TOKEN_REWARDS] for row in rows]
        if settings.whiten_rewards:
            rewards = _by_row(whitened(_joined(rewards), shift=False), rewards)
        values = [row.facts[_OLD_VALUES] for row in rows]
        advantages = [
            generalised_advantages(own, value, gamma=settings.gamma, decay=settings.gae_lambda)
            for own, value in zip(rewards, values, strict=True)
        ]
        returns = [advantage + value for advantage, value in zip(advantages, values, strict=True)]
        if settings.whiten_advantages:
            advantages = _by_row(whitened(_joined(advantages)), advantages)
        settled = []
        for row, advantage, own_return in zip(rows, advantages, returns, strict=True):
            kept = {name: value for name, value in row.facts.items() if name != _TOKEN_REWARDS}
            settled.append(replace(row, facts={**kept, _ADVANTAGES: advantage, _RETURNS: own_return}))
        explained = explained_variance(_joined(values), _joined(returns))
        metrics = {} if explained is None else {"explained_variance": (explained, 1.0)}
        return Experience((tuple(settled),), metrics)

    def loss(self, scorer: Scorer, batch: Batch) -> LossSum:
        """The loss of the tokens that the answers hold."""
        assert self._head is not None
        settings, tree = self._settings, batch.tree
        outputs = scorer.outputs(tree, hidden_P=tree.predictors_N, needs_entropy=settings.entropy_coefficient > 0)
        hidden_ND = outputs.hidden_PD if settings.value_trains_trunk else outputs.hidden_PD.detach()
        nats_M, values_M = per_use(tree, outputs.logprob_N), per_use(tree, self._head(hidden_ND))
        log_ratio_M = nats_M - fact(batch, OLD_NATS, nats_M)
        policy = clipped_surrogate(log_ratio_M, fact(batch, _ADVANTAGES, nats_M), low=settings.clip_epsilon)
        value_loss_M = clipped_value_loss(
            values_M,
            fact(batch, _RETURNS, values_M),
            old_values=fact(batch, _OLD_VALUES, values_M),
            clip=settings.value_clip,
        )
        total = policy.loss.sum() + settings.value_coefficient * value_loss_M.sum()
        if outputs.entropy_N is not None:
            total = total - settings.entropy_coefficient * per_use(tree, outputs.entropy_N).sum()
        num = float(len(nats_M))
        metrics = {
            "policy_loss": (float(policy.loss.detach().sum()), num),
            "value_loss": (float(value_loss_M.detach().sum()), num),
            "clip_fraction": (float(policy.is_clipped.sum()), num),
            "update_kl": (float((torch.expm1(log_ratio_M) - log_ratio_M).detach().sum()), num),
        }
        return LossSum(total, num, metrics)

    def finish_rollout(self, metrics: Metrics) -> None:
        """Steer the weight of the KL."""
        super().finish_rollout(metrics)
        total, num_answers = metrics.get("kl_per_answer", (0.0, 0.0))
        if num_answers:
            self._controller.update(total / num_answers, num_answers=num_answers)

    def state(self) -> dict[str, float]:
        """The weight of the KL."""
        return {"kl_coefficient": self._controller.coefficient}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Take it back."""
        self._controller.coefficient = state["kl_coefficient"]

    def _rows(self, policy: Policy, answers: Sequence[Answer]) -> tuple[list[Row], Metrics]:
        rows = [answer_row(answer, count=float(answer.num_tokens)) for answer in answers]
        old, values, entropy = self._look(policy, rows)
        reference = reference_scores(policy, rows)
        coefficient, made = self._controller.coefficient, []
        kl_sum = 0.0
        for row, answer, nats, value, start in zip(rows, answers, old, values, reference, strict=True):
            kl = estimate_kl(torch.from_numpy(nats), torch.from_numpy(start), estimator=self._settings.kl_estimator)
            rewards = -coefficient * kl.numpy()
            rewards[-1] += answer.reward
            kl_sum += float(kl.sum())
            facts = {**row.facts, OLD_NATS: nats, _OLD_VALUES: value, _TOKEN_REWARDS: rewards}
            made.append(replace(row, facts=facts))
        num_tokens = float(sum(answer.num_tokens for answer in answers))
        num = float(len(answers))
        metrics = {
            "kl_per_token": (kl_sum, num_tokens),
            "kl_per_answer": (kl_sum, num),
            "kl_coefficient": (coefficient, 1.0) if num else (0.0, 0.0),
            "entropy": (entropy, num_tokens),
            "value": (float(sum(value.sum() for value in values)), num_tokens),
        }
        return made, metrics

    @torch.no_grad()
    def _look(self, policy: Policy, rows: Sequence[Row]) -> tuple[list[Floats], list[Floats], float]:
        """Log-probability and value of each token, and the summed entropy, under the policy that answered."""
        assert self._head is not None
        nats: list[Floats] = []
        values: list[Floats] = []
        entropy = 0.0
        for part in policy.passes(rows):
            tree = batch_of(part).tree
            with policy.precision():
                outputs = policy.scorer.outputs(tree, hidden_P=tree.predictors_N, needs_entropy=True)
                value_N = self._head(outputs.hidden_PD)
            assert outputs.entropy_N is not None
            nats += per_row(tree, outputs.logprob_N, part)
            values += per_row(tree, value_N, part)
            entropy += float(per_use(tree, outputs.entropy_N).double().sum())
        return nats, values, entropy


def _joined(parts: Sequence[Floats]) -> Floats:
    return np.concatenate([np.zeros(0), *parts])


def _by_row(joined: Floats, like: Sequence[Floats]) -> list[Floats]:
    return list(np.split(joined, np.cumsum([len(part) for part in like])[:-1])) if like else []
