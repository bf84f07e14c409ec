"""Section `predict`: how answers are made. Obeyed by `loratory.infer`."""

from pydantic import Field

from loratory.config.section import Section


class PredictConfig(Section):
    """How a finished run answers."""

    max_new_tokens: int = Field(256, ge=1, description="Longest generated answer in tokens.")
    batch_size: int | None = Field(
        None, ge=1, description="Rows answered at once; default: as many as memory allows, at most 256."
    )
    do_sample: bool = Field(False, description="Sample instead of taking the likeliest token.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus of the sampling distribution.")
    top_k: int = Field(0, ge=0, description="Keep the k likeliest tokens; 0 keeps all.")
    labels: str = Field(
        "none",
        min_length=1,
        description="'none' generates; a file of labels, or 'auto' for the training rows' answers if they are a small "
        "closed set, chooses the likeliest label instead.",
    )
