"""Predictions out of a closed set of labels, in the form of generated ones."""

from collections.abc import Callable, Sequence

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.data.records import Record
from loratory.data.templates import BoundTemplate
from loratory.errors import DataError
from loratory.infer.decoding import decode
from loratory.infer.label_scoring import best_label, choose_labels, label_logprobs
from loratory.infer.label_set import bind_labels
from loratory.infer.predict import Prediction


def predict_labels(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    template: BoundTemplate,
    records: Sequence[Record],
    labels: Sequence[str],
    *,
    batch_size: int | None = None,
    with_logprobs: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> list[Prediction]:
    """Answer every record with the likeliest of some labels.

    Args:
        model: The model, plain or with its adapter.
        tokenizer: The model's tokenizer.
        template: The template bound to that tokenizer.
        records: Rows; only their prompts are shown to the model.
        labels: The closed set of answers.
        batch_size: Rows side by side.
        with_logprobs: Tell every label's log-probability too; takes longer, since no label may be left out.
        on_progress: Called with the number of rows done.

    Returns:
        Predictions in the order of the records.

    Raises:
        DataError: There are no records, or a prompt leaves no room for the labels (the message names the row).
        TemplateError: The template does not fit a row or the labels.
    """
    if not records:
        raise DataError("there are no rows to predict; at least one is needed")
    bound = bind_labels(labels, template, records[0])
    prompts = [template.generation_prompt(record) for record in records]
    names = [str(record.origin) for record in records]
    tables: list[list[float]] | None = None
    if with_logprobs:
        tables = label_logprobs(model, prompts, bound, on_progress=on_progress, names=names)
        choices = [best_label(table) for table in tables]
    else:
        choices = choose_labels(model, prompts, bound, batch_size=batch_size, on_progress=on_progress, names=names)
    return [
        Prediction(
            prompt=decode(tokenizer, prompt, skip_special_tokens=False),
            label=record.expected or "",
            predict=labels[choice.label],
            label_logprobs=None if tables is None else dict(zip(labels, tables[row], strict=True)),
        )
        for row, (record, prompt, choice) in enumerate(zip(records, prompts, choices, strict=True))
    ]
