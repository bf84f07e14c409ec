"""Section `objective`: what is learnt from the rows. Obeyed by `loratory.objective`."""

from typing import Literal

from pydantic import Field, model_validator

from loratory.config.preference import PreferenceConfig
from loratory.config.section import Section

# Which objectives obey which part of the section.
_OBEYED_BY: dict[str, tuple[str, ...]] = {"preference": ("dpo", "kto", "orpo", "simpo")}


class ObjectiveConfig(Section):
    """The training objective."""

    name: Literal["sft", "dpo", "kto", "orpo", "simpo"] = Field(
        "sft",
        description="sft: supervised fine-tuning on the rows' answers; dpo, orpo, simpo: preference pairs; "
        "kto: answers labelled good or bad.",
    )
    preference: PreferenceConfig = Field(default_factory=PreferenceConfig)

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
