"""Section `objective.rloo`: REINFORCE with a leave-one-out baseline. Obeyed by `loratory.objective`."""

from pydantic import Field

from loratory.config.section import Section


class RlooConfig(Section):
    """Each answer against the mean reward of the prompt's other answers."""

    epochs: int = Field(1, ge=1, description="Passes over a rollout's answers.")
    clip_epsilon: float = Field(0.2, gt=0, lt=1, description="How far an answer's probability ratio may move from 1.")
    kl_coefficient: float = Field(0.05, ge=0, description="Weight of an answer's KL to the starting policy.")
    normalise_advantages: bool = Field(
        False, description="Shift and scale advantages to mean 0 and variance 1 over the rollout."
    )
