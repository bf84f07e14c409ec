"""Section `objective.rollout`: how the policy answers prompts and what its answers are worth.

Obeyed by `loratory.objective` under ppo, grpo and rloo.
"""

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from loratory.config.section import Section

Reward = Literal["exact_match", "numeric", "regex", "model"]


class RolloutConfig(Section):
    """Prompts answered by the policy, and the reward of an answer."""

    prompts: int | None = Field(
        None, ge=1, description="Prompts of one rollout; default: as many as give train.batch_size answers."
    )
    samples_per_prompt: int | None = Field(
        None, ge=1, description="Answers to each prompt; default: 1 for ppo, 8 for grpo, 4 for rloo."
    )
    max_new_tokens: int = Field(64, ge=1, description="Longest answer in tokens.")
    temperature: float = Field(
        1.0,
        gt=0,
        description="Sampling temperature; other values than 1 let the policy learn from what it rarely says.",
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus of the sampling distribution.")
    top_k: int = Field(0, ge=0, description="Keep the k likeliest tokens; 0 keeps all.")
    batch_size: int = Field(64, ge=1, description="Answers generated at once.")
    reward: Reward | None = Field(
        None,
        description="What an answer is worth: 1 if it equals the row's answer (exact_match), ends in its number "
        "(numeric) or matches reward_pattern (regex), or what a reward model says (model). A function of yours: "
        "--reward-function on the command line.",
    )
    reward_model: str | None = Field(None, description="Folder of the reward model, for reward: model.")
    reward_pattern: str | None = Field(
        None, description="Pattern for reward: regex; a group named 'answer' must equal the row's answer."
    )
    missing_eos_penalty: float = Field(
        0.0, ge=0, description="Taken from the reward of an answer that did not end by itself."
    )
    length_penalty: float = Field(0.0, ge=0, description="Taken from the reward for each token of the answer.")
    max_failed_rewards: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of a rollout's answers whose reward may fail (an error, not a finite number); they are "
        "left out and counted. Beyond it the run stops.",
    )

    @model_validator(mode="after")
    def _reward_is_whole(self) -> Self:
        if (self.reward == "model") != (self.reward_model is not None):
            raise ValueError("reward 'model' and reward_model go together; give both or neither")
        if (self.reward == "regex") != (self.reward_pattern is not None):
            raise ValueError("reward 'regex' and reward_pattern go together; give both or neither")
        if self.reward_pattern is not None:
            try:
                re.compile(self.reward_pattern)
            except re.error as error:
                raise ValueError(f"reward_pattern is no regular expression ({error})") from None
        return self
