"""Section `quantization`: frozen base weights in 4 or 8 bits (QLoRA). Obeyed by `loratory.model`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from loratory.config.section import Section


class QuantizationConfig(Section):
    """The bitsandbytes options under their documented names."""

    load_in_4bit: bool = Field(False, description="Keep the base in 4 bits.")
    load_in_8bit: bool = Field(False, description="Keep the base in 8 bits.")
    bnb_4bit_compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of the arithmetic on 4-bit weights; auto: the model's dtype."
    )
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = Field("nf4", description="4-bit number format.")
    bnb_4bit_use_double_quant: bool = Field(False, description="Quantise the quantisation constants too.")

    @property
    def is_active(self) -> bool:
        """Whether the base is quantised at all."""
        return self.load_in_4bit or self.load_in_8bit

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError("load_in_4bit and load_in_8bit are both true; choose one")
        return self
