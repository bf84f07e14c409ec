"""Section `objective.reward`: how a reward model learns from pairs. Obeyed by `loratory.objective.reward`."""

from pydantic import Field

from loratory.config.section import Section


class RewardConfig(Section):
    """Pairwise Bradley–Terry loss."""

    center_coefficient: float = Field(
        0.0,
        ge=0,
        description="Weight of the squared sum of a pair's two scores in the loss: keeps scores around zero "
        "(0.01 is usual).",
    )
