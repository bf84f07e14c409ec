"""Section `objective`: what is learnt from the rows. Obeyed by `loratory.objective`."""

from typing import Literal

from pydantic import Field, model_validator

from loratory.config.classification import ClassificationConfig
from loratory.config.grpo import GrpoConfig
from loratory.config.ppo import PpoConfig
from loratory.config.preference import PreferenceConfig
from loratory.config.reward import RewardConfig
from loratory.config.rloo import RlooConfig
from loratory.config.rollout import RolloutConfig
from loratory.config.section import Section

# Which objectives obey which part of the section.
_OBEYED_BY: dict[str, tuple[str, ...]] = {
    "preference": ("dpo", "kto", "orpo", "simpo"),
    "rollout": ("ppo", "grpo", "rloo"),
    "ppo": ("ppo",),
    "grpo": ("grpo",),
    "rloo": ("rloo",),
    "reward": ("reward",),
    "classification": ("classification",),
}


class ObjectiveConfig(Section):
    """The training objective."""

    name: Literal["sft", "dpo", "kto", "orpo", "simpo", "ppo", "grpo", "rloo", "reward", "classification"] = Field(
        "sft",
        description="sft: supervised fine-tuning on the rows' answers; dpo, orpo, simpo: preference pairs; "
        "kto: answers labelled good or bad; ppo, grpo, rloo: rewards of answers that the policy gives itself; "
        "reward: a reward model from pairs; classification: texts to classes.",
    )
    preference: PreferenceConfig = Field(default_factory=PreferenceConfig)
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    ppo: PpoConfig = Field(default_factory=PpoConfig)
    grpo: GrpoConfig = Field(default_factory=GrpoConfig)
    rloo: RlooConfig = Field(default_factory=RlooConfig)
    reward: RewardConfig = Field(default_factory=RewardConfig)
    classification: ClassificationConfig = Field(default_factory=ClassificationConfig)

    @model_validator(mode="after")
    def _is_obeyed(self) -> "ObjectiveConfig":
        for part, names in _OBEYED_BY.items():
            value = getattr(self, part)
            if self.name not in names and value != type(value)():
                raise ValueError(
                    f"'{part}' has no effect under objective.name '{self.name}'; it is obeyed by {', '.join(names)}. "
                    "Remove it or choose one of these"
                )
        return self
