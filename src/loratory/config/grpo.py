"""Section `objective.grpo`: group-relative policy optimisation. Obeyed by `loratory.objective`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from loratory.config.section import Section


class GrpoConfig(Section):
    """Advantages from the group of a prompt's answers, and how the loss is averaged."""

    loss: Literal["grpo", "dapo", "dr_grpo"] = Field(
        "dapo",
        description="Average: grpo over each answer's tokens, then answers; dapo over all tokens (also known as "
        "bnpo); dr_grpo: sum over tokens divided by answers times max_new_tokens.",
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", description="Divide advantages by the standard deviation of the group's or the rollout's rewards."
    )
    epochs: int = Field(1, ge=1, description="Passes over a rollout's answers.")
    clip_epsilon: float = Field(0.2, gt=0, lt=1, description="How far the probability ratio may fall below 1.")
    clip_epsilon_high: float | None = Field(
        None, gt=0, description="How far it may rise above 1; default: as clip_epsilon. DAPO takes 0.28."
    )
    beta: float = Field(0.0, ge=0, description="Weight of the KL to the starting policy in the loss; 0: no reference.")

    unbiased_kl: bool = Field(
        True,
        description="Weigh the KL by the probability ratio, which makes its gradient that of the reverse KL "
        "(DeepSeek-V3.2); false: as in the first GRPO.",
    )

    @model_validator(mode="after")
    def _high_is_not_lower(self) -> Self:
        if self.clip_epsilon_high is not None and self.clip_epsilon_high < self.clip_epsilon:
            raise ValueError(
                f"clip_epsilon_high {self.clip_epsilon_high} is below clip_epsilon {self.clip_epsilon}; it gives room "
                "upwards"
            )
        return self
