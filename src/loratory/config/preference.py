"""Section `objective.preference`: losses over preferred answers. Obeyed by `loratory.objective`."""

from typing import Literal

from pydantic import Field

from loratory.config.section import Section


class PreferenceConfig(Section):
    """DPO and its relatives."""

    loss: Literal["sigmoid", "hinge", "ipo", "robust"] = Field(
        "sigmoid", description="Of dpo: sigmoid (DPO), hinge (SLiC), ipo, or robust (noisy labels)."
    )
    beta: float = Field(
        0.1, gt=0, description="How strongly the policy is held to the reference; simpo usually takes 2."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Of sigmoid and robust: assumed share of pairs that are the wrong way round."
    )
    gamma: float = Field(0.5, ge=0, description="Of simpo: target margin of the rewards.")
    sft_weight: float = Field(
        0.0, ge=0, description="Of dpo and simpo: weight of the chosen answer's mean nll, added to the loss."
    )
    desirable_weight: float = Field(1.0, gt=0, description="Of kto: weight of answers labelled good.")
    undesirable_weight: float = Field(1.0, gt=0, description="Of kto: weight of answers labelled bad.")
    reference_model: str | None = Field(
        None,
        description="Of dpo and kto: hub name or folder of the reference; default: the policy as it starts, which "
        "needs no second model.",
    )
