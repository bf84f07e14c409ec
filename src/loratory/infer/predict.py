"""Predicted answers of a data set: prompt, label and prediction per row, and their file."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.data.records import Record
from loratory.data.templates import BoundTemplate
from loratory.errors import DataError
from loratory.infer.decoding import decode
from loratory.infer.generate import generate
from loratory.infer.sampling import Sampling
from loratory.run import write_text

FIELDS = ("prompt", "label", "predict")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of `generated_predictions.jsonl`.

    Attributes:
        prompt: The generation prompt as text, template and special tokens included.
        label: The expected answer; empty when the row has none, or only one that was judged bad.
        predict: The answer without special tokens: generated, or chosen from a closed set.
        label_logprobs: Log-probability of each label of that set in nats, when it was asked for.
    """

    prompt: str
    label: str
    predict: str
    label_logprobs: Mapping[str, float] | None = None


def predict_records(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    template: BoundTemplate,
    records: Sequence[Record],
    *,
    max_new_tokens: int = 256,
    batch_size: int | None = None,
    sampling: Sampling | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[Prediction]:
    """Answer every record's prompt.

    Args:
        model: The model, plain or with its adapter.
        tokenizer: The model's tokenizer.
        template: The template bound to that tokenizer; it also says which tokens stop an answer.
        records: Rows; only their prompts are shown to the model.
        max_new_tokens: Longest answer.
        batch_size: Rows per forward pass.
        sampling: How to draw tokens; None takes the likeliest one.
        on_progress: Called with the number of rows done.

    Returns:
        Predictions in the order of the records.

    Raises:
        DataError: When there are no records, or a prompt leaves no room for the answer (the message names the row).
        TemplateError: When the template does not fit a row.
    """
    if not records:
        raise DataError("there are no rows to predict; at least one is needed")
    prompts = [template.generation_prompt(record) for record in records]
    answers = generate(
        model,
        prompts,
        stop_token_ids=template.stop_token_ids,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        sampling=sampling,
        on_progress=on_progress,
        names=[str(record.origin) for record in records],
    )
    return [
        Prediction(
            prompt=decode(tokenizer, prompt, skip_special_tokens=False),
            label=record.expected or "",
            predict=decode(tokenizer, answer),
        )
        for record, prompt, answer in zip(records, prompts, answers, strict=True)
    ]


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write predictions as JSON lines, UTF-8; the file appears whole or not at all."""
    rows = ({name: value for name, value in asdict(row).items() if value is not None} for row in predictions)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(lines))


def read_predictions(path: Path) -> list[Prediction]:
    """Read a predictions file back, strictly.

    Raises:
        DataError: When the file is missing, empty or not UTF-8, or lines are not objects with the three text fields;
            all bad lines are counted and the first five named.
    """
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such predictions file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; predictions are UTF-8 JSON lines") from error
    predictions: list[Prediction] = []
    faults: list[str] = []
    # Not splitlines: U+2028 and its like may stand inside a JSON string.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            predictions.append(_parse_line(line))
        except ValueError as error:
            faults.append(f"{path}:{number}: {error}")
    if faults:
        more = f"\n… and {len(faults) - 5} more bad lines" if len(faults) > 5 else ""
        raise DataError("\n".join(faults[:5]) + more)
    if not predictions:
        raise DataError(f"{path}: holds no predictions")
    return predictions


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"a key stands twice among {', '.join(repr(key) for key, _ in pairs)}")
    return values


def _parse_line(line: str) -> Prediction:
    try:
        row = json.loads(line, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__}, but each line must be an object with {', '.join(FIELDS)}")
    wrong = [name for name in FIELDS if not isinstance(row.get(name), str)]
    if wrong:
        raise ValueError(f"needs text in {', '.join(FIELDS)}; missing or not text: {', '.join(wrong)}")
    return Prediction(prompt=row["prompt"], label=row["label"], predict=row["predict"])
