"""Section `evaluation`: how answers and models are scored. Obeyed by `loratory.evaluation`."""

from typing import Literal

from pydantic import Field

from loratory.config.section import Section


class EvaluationConfig(Section):
    """What the scores count, and on what `loratory evaluate` measures."""

    long_answer_chars: int = Field(10, ge=0, description="An answer is long above this many characters.")
    data_dir: str | None = Field(
        None, description="Folder with local copies of evaluation data: wikitext2/, ptb/, zero_shot/."
    )
    limit: int | None = Field(
        None, ge=1, description="At most this many windows of each text, rows of each task and rows of the text data."
    )
    perplexity_texts: list[str] = Field(
        ["wikitext2", "ptb"],
        description="Texts for perplexity: wikitext2, ptb, ptb_test (or NAME:FILE), a text file, a file of rows, or "
        "owner/name:SPLIT:COLUMN on the hub.",
    )
    perplexity_window: int | None = Field(
        None, ge=2, description="Tokens that the model sees at once (default: 2048, or its context if shorter)."
    )
    perplexity_stride: int | None = Field(
        None, ge=1, description="Tokens from one window to the next (default: the window, so that none overlap)."
    )
    perplexity_bos: Literal["auto", "no", "text", "window"] = Field(
        "auto", description="Begin token before the text, each window or nothing; auto: as the tokenizer does."
    )
    pass_tokens: int = Field(4096, ge=1, description="Tokens of one forward pass of the perplexity.")
    zero_shot_tasks: list[str] = Field(
        ["boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"],
        description="Tasks of lm-eval.",
    )
    num_fewshot: int = Field(0, ge=0, description="Worked examples before each question.")
    speed_prompt_tokens: int = Field(128, ge=1, description="Prompt length of the speed measurement.")
    speed_new_tokens: int = Field(32, ge=2, description="Tokens that the speed measurement generates.")
    speed_batch_sizes: list[int] = Field([1, 4, 16], min_length=1, description="Rows at once, one measurement each.")
    speed_repeats: int = Field(5, ge=1, description="Timed repeats of each measurement.")
    speed_warmup: int = Field(1, ge=0, description="Untimed runs before them.")
