"""Section `data`: which rows, under which template, cut how. Obeyed by `loratory.data`."""

from typing import Literal

from pydantic import Field

from loratory.config.section import Section

RowFormat = Literal["auto", "alpaca", "prompt_completion", "chat", "text"]
Truncation = Literal["error", "truncate", "drop"]
MixStrategy = Literal["concat", "interleave_under", "interleave_over"]


class DataConfig(Section):
    """Training and validation rows and how one row becomes tokens with weights."""

    train: str | list[str] = Field(
        description="Training rows: a .json, .jsonl, .csv or .parquet file, an entry of dataset_dir, or a hub name; "
        "several as a list or with commas."
    )
    validation: str | list[str] | None = Field(
        None, description="Validation rows, named as for `train`; without them `val_size` splits some off."
    )
    val_size: int | float = Field(
        0, ge=0, description="Rows (integer) or share (below 1) split off for validation by content hash."
    )
    test: str | None = Field(None, description="Test rows: never trained on; what `loratory predict RUN` uses.")
    dataset_dir: str | None = Field(
        None, description="Folder with a dataset_info.json, whose entries `train`, `validation` and `test` may name."
    )
    mix_strategy: MixStrategy = Field(
        "concat",
        description="Several training sources: concat (all rows of all), or interleaved by mix_weights; an epoch ends "
        "when the first source has given all its rows (interleave_under) or the last (interleave_over).",
    )
    mix_weights: list[float] | None = Field(
        None, description="Share of each source in an interleaved epoch, in any unit; default: equal shares."
    )
    format: RowFormat = Field(
        "auto",
        description="Row form; auto recognises it from the first row's fields. Rows of form text hold one text, all of "
        "which is trained, under no template.",
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="Our field name -> the file's column name, e.g. {output: answer}."
    )
    template: str = Field(
        "auto",
        description="'auto' (the tokenizer's chat template, else alpaca), 'chat', a template name, or a JSON file.",
    )
    system: str | None = Field(None, description="System prompt put before every conversation that has none.")
    train_on_inputs: bool = Field(False, description="Train on prompt tokens too.")
    add_eos_token: bool = Field(True, description="Train the stop token after the answer.")
    cutoff_len: int = Field(1024, ge=8, description="Longest sequence in tokens.")
    truncation: Truncation = Field(
        "error",
        description="Rows longer than cutoff_len: error, drop the row, or truncate the prompt's start.",
    )
    max_samples: int | None = Field(None, ge=1, description="Use only the first n rows of each training source.")
    max_bad_rows: int = Field(0, ge=0, description="Bad rows tolerated (skipped and counted) before an error.")
    token_cache: bool = Field(
        True,
        description="Keep the tokenised rows in run.output_dir/.tokens and take them from there when nothing changed.",
    )
