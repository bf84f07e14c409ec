"""Section `adapter`: what is trained on top of the base. Obeyed by `loratory.adapter`."""

from typing import Literal

from pydantic import Field

from loratory.config.section import Section

Method = Literal["lora", "full"]
Bias = Literal["none", "all", "lora_only"]


class AdapterConfig(Section):
    """LoRA in PEFT's terms, or `method: full` for full fine-tuning."""

    method: Method = Field("lora", description="lora, or full (every weight of the base is trained).")
    rank: int = Field(8, ge=1, description="Rank r of the update.")
    alpha: float | None = Field(None, gt=0, description="Scale numerator; default 2 * rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the adapter.")
    bias: Bias = Field("none", description="Which biases are trained.")
    targets: str | list[str] = Field(
        "all",
        description="'all' (every linear layer but the head), 'default' (the family's usual choice), a list of "
        "names, or one regular expression over full module names.",
    )
    exclude: list[str] = Field(default_factory=list, description="Module names never adapted.")
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) instead of alpha / rank.")
    use_dora: bool = Field(False, description="Weight-decomposed update (DoRA).")
    init: str = Field(
        "default",
        description="default, gaussian, orthogonal, olora, pissa, or pissa_niter_N.",
    )
    modules_to_save: list[str] = Field(default_factory=list, description="Modules trained in full and saved.")
    rank_pattern: dict[str, int] = Field(default_factory=dict, description="Rank by module name or regex.")
    alpha_pattern: dict[str, float] = Field(default_factory=dict, description="Alpha by module name or regex.")
    path: str | None = Field(None, description="An existing adapter to continue.")
    create_new_adapter: bool = Field(
        False, description="Merge the adapter at `path` into the base first and train a fresh one on top."
    )
