"""Section `objective`: what is learnt from the rows. Obeyed by `loratory.objective`."""

from typing import Literal

from pydantic import Field

from loratory.config.section import Section


class ObjectiveConfig(Section):
    """The training objective."""

    name: Literal["sft"] = Field("sft", description="sft: supervised fine-tuning on the rows' answers.")
