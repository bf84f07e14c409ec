"""Evaluation where the policy answers: the mean reward of its likeliest answers to validation prompts."""

from collections.abc import Callable, Sequence

from loratory.engine.evaluate import EvaluationResult
from loratory.engine.forward import merge_metrics
from loratory.engine.ranks import Ranks
from loratory.errors import RewardError
from loratory.objective.row import Row
from loratory.objective.sampled import Policy, SampledObjective

_PROMPTS_AT_ONCE = 64


class AnswerEvaluator:
    """Lets the policy answer validation prompts without drawing; the loss is the mean reward with a minus sign.

    Args:
        objective: Judges.
        policy: The model in training.
        prompts: Validation rows.
        ranks: Each answers its share.
    """

    def __init__(self, objective: SampledObjective, policy: Policy, *, prompts: Sequence[Row], ranks: Ranks) -> None:
        self._objective = objective
        self._policy = policy
        self._ranks = ranks
        mine = ranks.share(sorted(prompts, key=lambda row: -row.num_tokens))
        self._parts = [mine[start : start + _PROMPTS_AT_ONCE] for start in range(0, len(mine), _PROMPTS_AT_ONCE)]

    def __call__(self, should_stop: Callable[[], bool]) -> EvaluationResult | None:
        """Evaluate; None when `should_stop` became true before the end. Draws no random number.

        Raises:
            RewardError: No answer has a reward.
        """
        found = []
        is_stopped = False
        for prompts in self._parts:
            if is_stopped := should_stop():
                break
            found.append(self._objective.judge(self._policy, prompts))
        if self._ranks.any(is_stopped):
            return None
        sums = merge_metrics(self._ranks.gather(merge_metrics(found)))
        means = {name: total / n for name, (total, n) in sums.items() if n}
        if "reward" not in means:
            raise RewardError("the reward failed for every answer to the validation prompts. Mend the reward.")
        return EvaluationResult(-means["reward"], means)
