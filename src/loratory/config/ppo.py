"""Section `objective.ppo`: proximal policy optimisation. Obeyed by `loratory.objective`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from loratory.config.section import Section


class PpoConfig(Section):
    """Updates of the policy and its value head on one rollout."""

    epochs: int = Field(4, ge=1, description="Passes over a rollout's answers, in mini-batches of train.batch_size.")
    clip_epsilon: float = Field(0.2, gt=0, lt=1, description="How far the probability ratio may move from 1.")
    value_clip: float | None = Field(
        0.2, gt=0, description="How far a value may move from that of the rollout; null: not clipped."
    )
    value_coefficient: float = Field(0.1, ge=0, description="Weight of the value loss.")
    value_trains_trunk: bool = Field(
        True, description="The value loss also trains the model under the value head, not the head alone."
    )
    entropy_coefficient: float = Field(0.0, ge=0, description="Weight of the entropy bonus.")
    gamma: float = Field(1.0, gt=0, le=1, description="Discount per token.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="Decay of generalised advantage estimation.")
    kl_coefficient: float = Field(0.05, ge=0, description="Weight of the KL to the starting policy in the reward.")
    kl_estimator: Literal["k1", "k3"] = Field(
        "k1", description="Estimate of a token's KL: k1 unbiased, k3 of lower variance and never negative."
    )
    kl_target: float | None = Field(
        None, gt=0, description="KL per answer in nats that kl_coefficient is steered towards; null: it stays."
    )
    kl_horizon: int = Field(10_000, ge=1, description="Answers over which the steering acts.")
    whiten_rewards: bool = Field(False, description="Scale token rewards to variance 1 over the rollout.")
    whiten_advantages: bool = Field(True, description="Shift and scale advantages to mean 0 and variance 1.")

    @model_validator(mode="after")
    def _target_can_steer(self) -> Self:
        if self.kl_target is not None and self.kl_coefficient == 0:
            raise ValueError(
                "kl_target steers kl_coefficient, which is 0 and would stay 0; give it a start such as 0.05"
            )
        return self
