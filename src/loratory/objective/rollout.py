"""A rollout: the policy answers prompts, and each answer gets its reward.

Law: what is drawn for a prompt depends on the seed, the prompt's number and the sample's, not on batches or ranks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel

from loratory.data.sequence import TokenSequence
from loratory.errors import DataError
from loratory.infer.decoding import decode
from loratory.infer.flat.model import flat_refusal
from loratory.infer.fusion import FusedAdapter, fusion_obstacle
from loratory.infer.generate import GeneratedAnswer, context_length, generate_answers
from loratory.infer.sampling import Sampling
from loratory.objective.judge import AnsweredPrompt, Judge, Unjudged
from loratory.objective.row import Row
from loratory.objective.sampled import Policy

LABEL, PROMPT = "label", "prompt"
"""Texts of a prompt row."""


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """How answers are drawn and what is taken from their rewards.

    Attributes:
        samples_per_prompt: G, answers to each prompt.
        max_new_tokens: Longest answer.
        temperature: Of the draws.
        top_p: Of the draws.
        top_k: Of the draws.
        batch_size: Answers generated at once.
        missing_eos_penalty: Taken from the reward of an answer that did not end by itself.
        length_penalty: Taken from the reward for each token.
    """

    samples_per_prompt: int
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    batch_size: int = 64
    missing_eos_penalty: float = 0.0
    length_penalty: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One answer of the policy.

    Attributes:
        prompt: The row that it answers.
        number: Number of the prompt over the whole run.
        sequence: Prompt and answer, the stop token included if there is one; weight 1 on the answer's tokens.
        text: The answer without special tokens.
        is_stopped: Whether it ended by itself.
        verdict: The judge's reward, or why there is none.
        reward: The verdict less penalties; 0 without a verdict.
    """

    prompt: Row
    number: int
    sequence: TokenSequence
    text: str
    is_stopped: bool
    verdict: float | Unjudged
    reward: float

    @property
    def num_tokens(self) -> int:
        """Tokens of the answer, its stop token included; at least 1."""
        return len(self.sequence) - self.sequence.prompt_length


class Rollout:
    """Lets a policy answer.

    Args:
        settings: How.
        judge: What answers are worth.
    """

    def __init__(self, settings: RolloutSettings, judge: Judge) -> None:
        self.settings = settings
        self.judge = judge

    def sample(self, policy: Policy, prompts: Sequence[Row], *, numbers: Sequence[int]) -> list[list[Answer]]:
        """G answers to each prompt, drawn from the policy."""
        settings = self.settings
        sampling = Sampling(settings.temperature, settings.top_p, settings.top_k, policy.seed)
        return self._answers(policy, prompts, numbers, settings.samples_per_prompt, sampling)

    def greedy(self, policy: Policy, prompts: Sequence[Row]) -> list[Answer]:
        """The likeliest answer to each prompt, token by token."""
        groups = self._answers(policy, prompts, range(len(prompts)), 1, None)
        return [answer for group in groups for answer in group]

    def check_prompts(self, policy: Policy, prompts: Sequence[Row]) -> None:
        """Refuse prompts that fill the context, and rows without the answer that the reward compares with.

        Raises:
            DataError: Says how many, names the longest and the first.
            ModelError: The reward model reads other tokens than the policy writes.
        """
        self.judge.check(policy)
        unlabelled = [row.origin for row in prompts if self.judge.needs_label and not row.texts.get(LABEL)]
        if unlabelled:
            raise DataError(
                f"{len(unlabelled)} of {len(prompts)} rows have no answer of their own, with which "
                f"objective.rollout.reward compares those of the policy; the first: {unlabelled[0]}. Give them one or "
                "choose another reward."
            )
        limit, room = context_length(policy.model), self.settings.max_new_tokens
        if limit is None:
            return
        full = [row for row in prompts if row.num_tokens + room > limit]
        if full:
            longest = max(full, key=lambda row: row.num_tokens)
            raise DataError(
                f"{len(full)} of {len(prompts)} prompts leave no room for an answer; the longest, {longest.origin}, "
                f"has {longest.num_tokens} tokens, and the model's context of {limit} less "
                f"objective.rollout.max_new_tokens {room} leaves {max(limit - room, 0)}. Lower max_new_tokens, or set "
                f"data.cutoff_len={max(limit - room, 1)} and data.truncation=truncate or drop."
            )

    def _answers(
        self,
        policy: Policy,
        prompts: Sequence[Row],
        numbers: Sequence[int],
        num_samples: int,
        sampling: Sampling | None,
    ) -> list[list[Answer]]:
        if not prompts:
            return []
        repeated = [(row, number) for row, number in zip(prompts, numbers, strict=True) for _ in range(num_samples)]
        draws = [number * num_samples + sample for number in numbers for sample in range(num_samples)]
        longest = max(row.num_tokens for row in prompts) + self.settings.max_new_tokens
        with decoding(policy.model, longest=longest):
            generated = generate_answers(
                policy.model,
                [row.sequences[0].token_ids.tolist() for row, _ in repeated],
                stop_token_ids=policy.template.stop_token_ids,
                max_new_tokens=self.settings.max_new_tokens,
                batch_size=self.settings.batch_size,
                sampling=sampling,
                draw_numbers=draws,
                names=[row.origin for row, _ in repeated],
            )
        texts = [decode(policy.tokenizer, answer.token_ids) for answer in generated]
        sequences = [_answered(row.sequences[0], one) for (row, _), one in zip(repeated, generated, strict=True)]
        verdicts = self.judge(
            [
                AnsweredPrompt(
                    row.texts.get(PROMPT, ""), text, row.texts.get(LABEL, ""), tuple(sequence.token_ids.tolist())
                )
                for (row, _), text, sequence in zip(repeated, texts, sequences, strict=True)
            ]
        )
        answers = []
        for index, ((row, number), verdict) in enumerate(zip(repeated, verdicts, strict=True)):
            is_stopped = generated[index].stop_token_id is not None
            reward = 0.0 if isinstance(verdict, Unjudged) else verdict
            reward -= self.settings.length_penalty * (len(sequences[index]) - len(row.sequences[0]))
            reward -= 0.0 if is_stopped else self.settings.missing_eos_penalty
            answers.append(Answer(row, number, sequences[index], texts[index], is_stopped, verdict, reward))
        return [answers[start : start + num_samples] for start in range(0, len(answers), num_samples)]


@contextmanager
def decoding(model: PreTrainedModel | PeftModel, *, longest: int) -> Iterator[None]:
    """Inside, the adapter is added into the weights where that is exact; afterwards it is out again, bit for bit.

    Where generation runs on flat tokens the adapter's thin products cost less than adding it in for a single rollout.
    """
    is_flat = flat_refusal(model, longest=longest) is None
    if is_flat or not isinstance(model, PeftModel) or fusion_obstacle(model) is not None:
        yield
        return
    fused = FusedAdapter(model)
    try:
        yield
    finally:
        fused.off()


def answer_metrics(answers: Sequence[Answer]) -> dict[str, tuple[float, float]]:
    """name -> (sum, count): what the answers are worth and look like; failed ones count as failed and no more."""
    judged = [answer for answer in answers if not isinstance(answer.verdict, Unjudged)]
    num = float(len(judged))
    return {
        "reward": (sum(answer.reward for answer in judged), num),
        "answer_tokens": (float(sum(answer.num_tokens for answer in judged)), num),
        "stopped": (float(sum(answer.is_stopped for answer in judged)), num),
        "empty_answers": (float(sum(not answer.text.strip() for answer in judged)), num),
        "failed_rewards": (float(len(answers) - len(judged)), float(len(answers))),
    }


def _answered(prompt: TokenSequence, generated: GeneratedAnswer) -> TokenSequence:
    """Prompt and answer; the token that ended it is the answer's last, for that was drawn too."""
    end = [] if generated.stop_token_id is None else [generated.stop_token_id]
    answer = [*generated.token_ids, *end]
    weights = np.zeros(len(prompt) + len(answer), dtype=np.float32)
    weights[len(prompt) :] = 1.0
    token_ids = np.concatenate([prompt.token_ids, np.asarray(answer, dtype=np.int64)])
    return TokenSequence(token_ids, weights, len(prompt))
