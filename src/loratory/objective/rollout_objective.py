"""What ppo, grpo and rloo have in common: prompts of the data, answers of the policy, mini-batches of these."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from loratory.data.records import Record
from loratory.data.sequence import TokenSequence
from loratory.data.templates import BoundTemplate
from loratory.errors import RewardError
from loratory.objective.answer_scores import Floats, per_row
from loratory.objective.judge import Unjudged
from loratory.objective.rollout import LABEL, PROMPT, Answer, Rollout, answer_metrics
from loratory.objective.row import Row, batch_of
from loratory.objective.sampled import Experience, Policy, SampledObjective
from loratory.tree.scorer import Scorer

Metrics = Mapping[str, tuple[float, float]]

GROUP = "group"
"""Fact: number of the prompt that the answer belongs to."""
REWARD = "reward"
"""Fact: the answer's reward, penalties taken off."""
OLD_NATS = "old_nats"
"""Fact: log-probability of each of the answer's tokens under the policy that gave it."""
REFERENCE_NATS = "reference_nats"
"""Fact: the same under the policy as it started."""


@dataclass(frozen=True, slots=True)
class UpdatePlan:
    """How a rollout is used.

    Attributes:
        prompts: Prompts of one rollout.
        epochs: Passes over its answers.
        mini_batches: Optimizer steps of a pass.
        max_failed_rewards: Share of answers without a reward beyond which the run stops.
    """

    prompts: int
    epochs: int
    mini_batches: int
    max_failed_rewards: float = 1.0


class RolloutObjective(SampledObjective):
    """The common part of objectives that learn from rewards.

    Args:
        rollout: Lets the policy answer.
        plan: How answers are used.
    """

    def __init__(self, rollout: Rollout, plan: UpdatePlan) -> None:
        self._rollout = rollout
        self._plan = plan

    @property
    def prompts_per_rollout(self) -> int:
        """Prompts of one rollout."""
        return self._plan.prompts

    @property
    def updates_per_rollout(self) -> int:
        """Epochs times mini-batches."""
        return self._plan.epochs * self._plan.mini_batches

    @property
    def answer_tokens(self) -> int:
        """Longest answer in tokens."""
        return self._rollout.settings.max_new_tokens

    def sequences(self, record: Record, template: BoundTemplate) -> tuple[TokenSequence, ...]:
        """The prompt alone."""
        token_ids = np.asarray(template.generation_prompt(record), dtype=np.int64)
        return (TokenSequence(token_ids, np.zeros(len(token_ids), dtype=np.float32), len(token_ids)),)

    def count(self, row: Sequence[TokenSequence]) -> float:
        """One prompt."""
        return 1.0

    def texts(self, record: Record) -> Mapping[str, str]:
        """The conversation and the row's own answer, unless it was judged a bad one, for the reward."""
        return {PROMPT: "\n".join(turn.content for turn in record.prompt), LABEL: record.expected or ""}

    def check_prompts(self, policy: Policy, prompts: Sequence[Row]) -> None:
        """Refuse prompts that cannot be answered or judged."""
        self._rollout.check_prompts(policy, prompts)

    def judge(self, policy: Policy, prompts: Sequence[Row]) -> Metrics:
        """Rewards of greedy answers."""
        return answer_metrics(self._rollout.greedy(policy, prompts))

    def experience(self, policy: Policy, prompts: Sequence[Row], *, numbers: Sequence[int]) -> Experience:
        """Sample, judge, score; answers without a reward are left out and counted."""
        groups = self._rollout.sample(policy, prompts, numbers=numbers)
        answers = [answer for group in groups for answer in group]
        judged = [answer for answer in answers if not isinstance(answer.verdict, Unjudged)]
        self._explain_failures(answers, policy)
        rows, metrics = self._rows(policy, judged)
        found = iter(rows)
        by_prompt = [
            tuple(next(found) for answer in group if not isinstance(answer.verdict, Unjudged)) for group in groups
        ]
        return Experience(tuple(by_prompt), {**answer_metrics(answers), **metrics})

    def finish_rollout(self, metrics: Metrics) -> None:
        """Stop when too many rewards fail.

        Raises:
            RewardError: More than `max_failed_rewards` of the rollout's answers have no reward.
        """
        failed, total = metrics.get("failed_rewards", (0.0, 0.0))
        if failed > self._plan.max_failed_rewards * total:
            raise RewardError(
                f"the reward failed for {failed:.0f} of {total:.0f} answers of a rollout; "
                f"objective.rollout.max_failed_rewards allows a share of {self._plan.max_failed_rewards}. Nothing was "
                "learnt from them. Mend the reward, then go on with --resume."
            )

    def update_rows(self, experience: Sequence[Row], update: int, *, seed: int) -> Sequence[Row]:
        """Mini-batch `update`: groups in an order of their own for each epoch, cut into parts of like size.

        With one mini-batch per epoch the order is that of the rollout.
        """
        epoch, index = divmod(update, self._plan.mini_batches)
        groups = grouped(experience)
        if self._plan.mini_batches > 1:
            order = np.random.default_rng([seed, epoch]).permutation(len(groups))
            groups = [groups[i] for i in order]
        rows = [row for group in groups for row in group]
        bounds = [round(len(rows) * k / self._plan.mini_batches) for k in (index, index + 1)]
        return self._learnable(rows[bounds[0] : bounds[1]])

    @abstractmethod
    def _rows(self, policy: Policy, answers: Sequence[Answer]) -> tuple[list[Row], Metrics]:
        """A row for each answer with the facts that its loss needs, and numbers to log."""

    def _learnable(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Rows of one step without those that have no gradient."""
        return rows

    @staticmethod
    def _explain_failures(answers: Sequence[Answer], policy: Policy) -> None:
        failed = [(answer, answer.verdict) for answer in answers if isinstance(answer.verdict, Unjudged)]
        if failed:
            answer, verdict = failed[0]
            policy.note(
                f"{len(failed)} of {len(answers)} answers have no reward and are left out; the first, to "
                f"{answer.prompt.origin}: {verdict.reason}"
            )


def answer_row(answer: Answer, *, count: float) -> Row:
    """The row of an answer with its group and reward; the loss's other facts come later."""
    facts = {GROUP: np.array([float(answer.number)]), REWARD: np.array([answer.reward])}
    return Row((answer.sequence,), answer.prompt.origin, count, facts)


def grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows by group, in the order of their first."""
    groups: dict[float, list[Row]] = {}
    for row in rows:
        groups.setdefault(float(row.facts[GROUP][0]), []).append(row)
    return list(groups.values())


@torch.no_grad()
def score_answers(policy: Policy, scorer: Scorer, rows: Sequence[Row]) -> list[Floats]:
    """Log-probability of each token of each row's answer, in passes."""
    scores: list[Floats] = []
    for part in policy.passes(rows):
        tree = batch_of(part).tree
        with policy.precision():
            scores += per_row(tree, scorer.logprobs(tree), part)
    return scores


def reference_scores(policy: Policy, rows: Sequence[Row]) -> list[Floats]:
    """The same under the policy as it started."""
    with policy.reference.scorer() as scorer:
        return score_answers(policy, scorer, rows)


def num_mini_batches(*, answers: int, batch_size: int) -> int:
    """Optimizer steps in which `answers` rows are used once, none with more than `batch_size`."""
    return max(1, math.ceil(answers / batch_size))
