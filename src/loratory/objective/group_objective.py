"""GRPO and RLOO: no value head; an answer is measured by the other answers to its prompt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from loratory.objective.advantage import Floats, Scale, group_advantages, leave_one_out_advantages, whitened
from loratory.objective.answer_scores import fact, per_use
from loratory.objective.kl import estimate_kl
from loratory.objective.loss import LossSum
from loratory.objective.rollout import Answer, Rollout
from loratory.objective.rollout_objective import (
    OLD_NATS,
    REFERENCE_NATS,
    REWARD,
    Metrics,
    RolloutObjective,
    UpdatePlan,
    answer_row,
    grouped,
    reference_scores,
    score_answers,
)
from loratory.objective.row import Batch, Row
from loratory.objective.sampled import Experience, Policy
from loratory.objective.surrogate import Surrogate, clipped_surrogate
from loratory.tree.scorer import Scorer

Average = Literal["grpo", "dapo", "dr_grpo"]

_ADVANTAGE = "advantage"
"""Fact: one number for the answer."""


class GroupObjective(RolloutObjective):
    """What GRPO and RLOO have in common.

    Args:
        rollout: Lets the policy answer.
        plan: How answers are used.
        needs_reference_scores: Answers are scored under the starting policy.
    """

    def __init__(self, rollout: Rollout, plan: UpdatePlan, *, needs_reference_scores: bool) -> None:
        super().__init__(rollout, plan)
        self._needs_reference_scores = needs_reference_scores

    def _rows(self, policy: Policy, answers: Sequence[Answer]) -> tuple[list[Row], Metrics]:
        rows = [answer_row(answer, count=self._count(answer)) for answer in answers]
        # With a single update the policy that learns is still the one that answered.
        if self.updates_per_rollout > 1 or self._needs_reference_scores:
            rows = _with(rows, OLD_NATS, score_answers(policy, policy.scorer, rows))
        metrics: dict[str, tuple[float, float]] = {}
        if self._needs_reference_scores:
            rows = _with(rows, REFERENCE_NATS, reference_scores(policy, rows))
            kl = sum(float((row.facts[OLD_NATS] - row.facts[REFERENCE_NATS]).sum()) for row in rows)
            metrics["kl_per_token"] = (kl, float(sum(answer.num_tokens for answer in answers)))
            metrics["kl_per_answer"] = (kl, float(len(rows)))
        return rows, metrics

    def _learnable(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Rows with an advantage or a KL to learn from; the others only keep their share of the count."""
        alive = [row for row in rows if row.facts[_ADVANTAGE][0] != 0 or self._has_gradient_at_rest]
        if not alive or len(alive) == len(rows):
            return alive
        silent = sum(row.count for row in rows) - sum(row.count for row in alive)
        return [replace(alive[0], count=alive[0].count + silent), *alive[1:]]

    @property
    def _has_gradient_at_rest(self) -> bool:
        """Whether an answer without advantage still teaches."""
        return False

    def _count(self, answer: Answer) -> float:
        """Share of the normaliser."""
        return 1.0


class GrpoObjective(GroupObjective):
    """Clipped surrogate per token with the group's advantage, plus a weighted KL to the starting policy.

    DeepSeekMath (Shao et al. 2024); averages of DAPO (Yu et al. 2025) and Dr. GRPO (Liu et al. 2025). The average is
    over the whole optimizer step, so DAPO's and what TRL calls bnpo are one.

    Args:
        rollout: Lets the policy answer.
        plan: How answers are used.
        average: grpo: mean over answers of the mean over tokens; dapo: mean over tokens; dr_grpo: sum over tokens
            divided by answers times the longest length.
        scale: What advantages are divided by.
        clip_low: How far a ratio may fall below 1.
        clip_high: How far it may rise above 1; None: as `clip_low`.
        beta: Weight of the KL.
        unbiased_kl: Weigh each token's KL by its probability ratio.
    """

    name = "grpo"

    def __init__(
        self,
        rollout: Rollout,
        plan: UpdatePlan,
        *,
        average: Average = "dapo",
        scale: Scale = "group",
        clip_low: float = 0.2,
        clip_high: float | None = None,
        beta: float = 0.0,
        unbiased_kl: bool = True,
    ) -> None:
        super().__init__(rollout, plan, needs_reference_scores=beta > 0)
        self._average = average
        self._scale = scale
        self._clip_low, self._clip_high = clip_low, clip_high
        self._beta = beta
        self._unbiased_kl = unbiased_kl

    def settle(self, rows: Sequence[Row]) -> Experience:
        """Advantages; groups whose rewards are equal teach nothing and are counted."""
        groups = grouped(rows)
        rewards = [np.concatenate([row.facts[REWARD] for row in group]) for group in groups]
        return _settled(groups, rewards, group_advantages(rewards, scale=self._scale))

    def loss(self, scorer: Scorer, batch: Batch) -> LossSum:
        """The loss of the batch's answers."""
        tree = batch.tree
        nats_M = per_use(tree, scorer.logprobs(tree))
        lengths = torch.tensor([row.sequences[0].num_supervised for row in batch.rows], device=nats_M.device)
        advantage_M = fact(batch, _ADVANTAGE, nats_M).repeat_interleave(lengths)
        log_ratio_M = nats_M - (fact(batch, OLD_NATS, nats_M) if OLD_NATS in batch.rows[0].facts else nats_M.detach())
        policy = clipped_surrogate(log_ratio_M, advantage_M, low=self._clip_low, high=self._clip_high)
        loss_M = policy.loss
        if self._beta > 0:
            reference_M = fact(batch, REFERENCE_NATS, nats_M)
            kl_M = estimate_kl(nats_M, reference_M, estimator="k3")
            loss_M = loss_M + self._beta * (kl_M * log_ratio_M.exp() if self._unbiased_kl else kl_M)
        if self._average == "grpo":
            loss_M = loss_M / lengths.repeat_interleave(lengths)
        return LossSum(loss_M.sum(), sum(row.count for row in batch.rows), _policy_metrics(policy, nats_M))

    @property
    def _has_gradient_at_rest(self) -> bool:
        return self._beta > 0

    def _count(self, answer: Answer) -> float:
        match self._average:
            case "grpo":
                return 1.0
            case "dapo":
                return float(answer.num_tokens)
            case "dr_grpo":
                return float(self.answer_tokens)


class RlooObjective(GroupObjective):
    """REINFORCE on whole answers with a leave-one-out baseline (Ahmadian et al. 2024); the KL is in the reward.

    The ratio of an answer's probabilities is clipped when a rollout is used for several updates.

    Args:
        rollout: Lets the policy answer.
        plan: How answers are used.
        clip_epsilon: How far an answer's ratio may move from 1.
        kl_coefficient: Weight of an answer's KL in its reward.
        normalise: Shift and scale advantages to mean 0 and variance 1.
    """

    name = "rloo"

    def __init__(
        self,
        rollout: Rollout,
        plan: UpdatePlan,
        *,
        clip_epsilon: float = 0.2,
        kl_coefficient: float = 0.05,
        normalise: bool = False,
    ) -> None:
        super().__init__(rollout, plan, needs_reference_scores=kl_coefficient > 0)
        self._clip_epsilon = clip_epsilon
        self._kl_coefficient = kl_coefficient
        self._normalise = normalise

    def settle(self, rows: Sequence[Row]) -> Experience:
        """Advantages of rewards less their KL."""
        groups = grouped(rows)
        rewards = [np.array([self._taxed_reward(row) for row in group]) for group in groups]
        advantages = [leave_one_out_advantages(own) for own in rewards]
        if self._normalise and groups:
            joined = whitened(np.concatenate(advantages))
            advantages = list(np.split(joined, np.cumsum([len(own) for own in advantages])[:-1]))
        return _settled(groups, rewards, advantages)

    def loss(self, scorer: Scorer, batch: Batch) -> LossSum:
        """The loss of the batch's answers."""
        tree = batch.tree
        nats_M = per_use(tree, scorer.logprobs(tree))
        nats_S = nats_M.new_zeros(tree.num_sequences).index_add(0, tree.sequence_M.to(nats_M.device), nats_M)
        if OLD_NATS in batch.rows[0].facts:
            sums = np.array([row.facts[OLD_NATS].sum() for row in batch.rows])
            old_S = torch.from_numpy(sums).to(nats_S)
        else:
            old_S = nats_S.detach()
        policy = clipped_surrogate(nats_S - old_S, fact(batch, _ADVANTAGE, nats_S), low=self._clip_epsilon)
        return LossSum(policy.loss.sum(), float(len(batch.rows)), _policy_metrics(policy, nats_M))

    def _taxed_reward(self, row: Row) -> float:
        reward = float(row.facts[REWARD][0])
        if self._kl_coefficient > 0:
            reward -= self._kl_coefficient * float((row.facts[OLD_NATS] - row.facts[REFERENCE_NATS]).sum())
        return reward


def _settled(groups: Sequence[Sequence[Row]], rewards: Sequence[Floats], advantages: Sequence[Floats]) -> Experience:
    """Rows with their advantages, and how the groups' rewards are spread."""
    settled = [
        replace(row, facts={**row.facts, _ADVANTAGE: np.array([advantage])})
        for group, own in zip(groups, advantages, strict=True)
        for row, advantage in zip(group, own, strict=True)
    ]
    num_silent = sum(not own.any() for own in advantages)
    metrics = {
        "reward_std": (float(sum(own.std() for own in rewards)), float(len(groups))),
        "groups_without_variance": (float(num_silent), float(len(groups))),
    }
    return Experience((tuple(settled),), metrics)


def _policy_metrics(policy: Surrogate, nats_M: torch.Tensor) -> dict[str, tuple[float, float]]:
    num = float(len(policy.loss))
    return {
        "policy_loss": (float(policy.loss.detach().sum()), num),
        "clip_fraction": (float(policy.is_clipped.sum()), num),
        # The mean surprise of drawn tokens estimates the entropy, and costs no pass over the vocabulary.
        "sampled_entropy": (-float(nats_M.detach().sum()), float(len(nats_M))),
    }


def _with(rows: Sequence[Row], name: str, values: Sequence[Floats]) -> list[Row]:
    return [replace(row, facts={**row.facts, name: value}) for row, value in zip(rows, values, strict=True)]
