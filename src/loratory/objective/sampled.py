"""Objectives that learn from answers which the policy gives: what they do between rollouts. The loop stays the same."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.data.templates import BoundTemplate
from loratory.objective.loss import Objective
from loratory.objective.row import Row
from loratory.tree.scorer import Scorer


class Reference(Protocol):
    """The policy as it was before training."""

    def scorer(self) -> AbstractContextManager[Scorer]:
        """Inside, a scorer of the policy as it started, without gradient; outside, the model is what it was."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """The model in training and what is needed to let it answer.

    Attributes:
        model: In evaluation mode while it answers.
        tokenizer: Its tokenizer.
        template: The bound template.
        scorer: Of the policy as it is now.
        reference: The policy as it started.
        seed: Of the run; with the number of a prompt it fixes what is drawn.
        passes: Cuts rows, in order, into forward passes that fit the memory.
        precision: A context for forward passes, as those of training have it.
        note: Shows one line to the user.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    template: BoundTemplate
    scorer: Scorer
    reference: Reference
    seed: int
    passes: Callable[[Sequence[Row]], Sequence[Sequence[Row]]]
    precision: Callable[[], AbstractContextManager[object]]
    note: Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Experience:
    """What one rollout gave.

    Attributes:
        answers: For each prompt the rows of its answers: `sequences` holds prompt and answer, `facts` what the loss
            needs (old log-probabilities, advantages, …), `count` its share of the normaliser.
        metrics: name -> (sum, count), logged with the first step that uses the rows.
    """

    answers: tuple[tuple[Row, ...], ...]
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class SampledObjective(Objective):
    """An objective whose rows are answers that the policy gives to the data's prompts.

    A rollout answers `prompts_per_rollout` prompts and is used for `updates_per_rollout` optimizer steps.

    Attributes:
        prompts_per_rollout: Rows of the data set in one rollout.
        updates_per_rollout: Optimizer steps on one rollout: epochs times mini-batches.
    """

    needs_answer = False
    may_stand_still = True

    @property
    @abstractmethod
    def prompts_per_rollout(self) -> int: ...

    @property
    @abstractmethod
    def updates_per_rollout(self) -> int: ...

    @abstractmethod
    def experience(self, policy: Policy, prompts: Sequence[Row], *, numbers: Sequence[int]) -> Experience:
        """Let the policy answer and judge what it says.

        Args:
            policy: The model in evaluation mode.
            prompts: This rank's share of the rollout.
            numbers: Number of each prompt over the whole run and all ranks; with the seed it fixes what is drawn
                for it, however the prompts are shared out.
        """

    @property
    @abstractmethod
    def answer_tokens(self) -> int:
        """Longest answer in tokens."""

    @abstractmethod
    def check_prompts(self, policy: Policy, prompts: Sequence[Row]) -> None:
        """Look at the data set's prompts before the run begins.

        Raises:
            DataError: Prompts leave no room for an answer, or lack what the reward needs.
        """

    @abstractmethod
    def judge(self, policy: Policy, prompts: Sequence[Row]) -> Mapping[str, tuple[float, float]]:
        """Rewards of the likeliest answers to validation prompts: name -> (sum, count), 'reward' among them."""

    def settle(self, rows: Sequence[Row]) -> Experience:
        """Look at the whole rollout, all ranks' answers in order: what depends on more than one answer.

        A pure function, the same on every rank.
        """
        return Experience((tuple(rows),))

    @abstractmethod
    def update_rows(self, experience: Sequence[Row], update: int, *, seed: int) -> Sequence[Row]:
        """The rows of one optimizer step: mini-batch `update` (0 .. updates_per_rollout - 1), a pure function.

        Empty when nothing can be learnt from it: the step is then skipped.
        """

    def finish_rollout(self, metrics: Mapping[str, tuple[float, float]]) -> None:
        """Look at a rollout's numbers, summed over all ranks, and adapt (a KL controller); the same on every rank."""

    def state(self) -> dict[str, float]:
        """What `finish_rollout` has changed; in every checkpoint."""
        return {}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Take `state()` back."""
