"""Section `adapter`: what is trained on top of the base. Obeyed by `loratory.adapter`."""

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from loratory.config.method_catalogue import OWN_METHODS, foreign_field_fault, method_fault, option_faults
from loratory.config.section import Section

Bias = Literal["none", "all", "lora_only"]
Preset = Literal["conservative", "balanced", "aggressive"]
# Rank and dropout; alpha is twice the rank in all of them, as it is without a preset.
PRESETS: dict[str, tuple[int, float]] = {"conservative": (8, 0.1), "balanced": (16, 0.1), "aggressive": (32, 0.05)}
LORA_ONLY = (
    "rank",
    "alpha",
    "dropout",
    "bias",
    "use_rslora",
    "use_dora",
    "init",
    "rank_pattern",
    "alpha_pattern",
    "preset",
)


class AdapterConfig(Section):
    """LoRA in PEFT's terms, any other method of PEFT by name, or `method: full` for full fine-tuning."""

    method: str = Field(
        "lora",
        description="lora, full (every weight of the base is trained), or any other method of PEFT: loha, lokr, "
        "adalora, oft, boft, ia3, vera, ln_tuning, prompt_tuning, … (docs/methods.md lists all).",
    )
    preset: Preset | None = Field(
        None,
        description="Rank and dropout that are not given: conservative 8/0.1, balanced 16/0.1, aggressive 32/0.05.",
    )
    rank: int = Field(8, ge=1, description="Rank r of the update (LoRA).")
    alpha: float | None = Field(None, gt=0, description="Scale numerator; default 2 * rank (LoRA).")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the adapter (LoRA).")
    bias: Bias = Field("none", description="Which biases are trained (LoRA).")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Options of the method under PEFT's names, such as {r: 16} for loha or {block_size: 64} for c3a; "
        "for lora those that have no field here.",
    )
    targets: str | list[str] = Field(
        "all",
        description="'all' (every linear layer but the head), 'default' (the family's usual choice), 'minimal' "
        "(queries and values), 'standard' (attention), 'complete' (attention and MLP), a list of names, or one "
        "regular expression over full module names.",
    )
    exclude: list[str] = Field(default_factory=list, description="Module names never adapted.")
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) instead of alpha / rank.")
    use_dora: bool = Field(False, description="Weight-decomposed update (DoRA).")
    init: str = Field(
        "default",
        description="default, gaussian, orthogonal, olora, pissa, pissa_niter_N, eva, corda, lora_ga (these three "
        "look at the training data first), or loftq (for a base in 4 bits).",
    )
    modules_to_save: list[str] = Field(default_factory=list, description="Modules trained in full and saved.")
    rank_pattern: dict[str, int] = Field(default_factory=dict, description="Rank by module name or regex.")
    alpha_pattern: dict[str, float] = Field(default_factory=dict, description="Alpha by module name or regex.")
    path: str | None = Field(None, description="An existing adapter to continue.")
    create_new_adapter: bool = Field(
        False, description="Merge the adapter at `path` into the base first and train a fresh one on top."
    )

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") in PRESETS:
            rank, dropout = PRESETS[values["preset"]]
            return {"rank": rank, "dropout": dropout, **values}
        return values

    @field_validator("method")
    @classmethod
    def _know_method(cls, value: str) -> str:
        fault = method_fault(value)
        if fault is not None:
            raise ValueError(fault)
        return value

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        faults = option_faults(self.method, self.options, is_continued=self.path is not None)
        if self.method not in OWN_METHODS:
            given = [name for name in LORA_ONLY if name in self.model_fields_set]
            faults += [foreign_field_fault(self.method, name) for name in given]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @model_serializer(mode="wrap")
    def _without_foreign_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """LoRA's fields mean nothing for another method, and are errors when read back with one."""
        values: dict[str, Any] = handler(self)
        if self.method not in OWN_METHODS:
            return {name: value for name, value in values.items() if name not in LORA_ONLY}
        return values
