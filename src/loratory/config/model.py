"""Section `model`: which base model, in which precision. Obeyed by `loratory.model`."""

from typing import Literal

from pydantic import Field

from loratory.config.section import Section

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Task = Literal["causal_lm", "seq_2_seq_lm", "seq_cls"]


class ModelConfig(Section):
    """The base model and its tokenizer."""

    model_name_or_path: str = Field(description="Hub name, local folder, or local .gguf file.")
    tokenizer_name_or_path: str | None = Field(None, description="Tokenizer, when it is not the model's own.")
    revision: str | None = Field(None, description="Hub revision (branch, tag or commit).")
    gguf_file: str | None = Field(None, description="Name of a GGUF file inside the folder or hub repository.")
    task: Literal["auto"] | Task = Field(
        "auto",
        description="What the model is for: causal_lm (continue text), seq_2_seq_lm (encoder-decoder), seq_cls (score "
        "a text). auto: as the objective needs it, and encoder-decoders as what they are.",
    )
    dtype: Dtype = Field(
        "auto", description="Weight precision. auto: bfloat16 on a GPU that has it, float32 elsewhere."
    )
