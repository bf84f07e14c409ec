"""Classes of texts: the answer of a classification model is the name of the likeliest class."""

from collections.abc import Callable, Sequence

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.data.records import Record
from loratory.data.templates import BoundTemplate
from loratory.errors import DataError
from loratory.infer.decoding import decode
from loratory.infer.predict import Prediction
from loratory.tree.build import build_tree
from loratory.tree.classes import scored_sequence
from loratory.tree.scorers import make_scorer

_ROWS_PER_PASS = 16


def classify_records(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    template: BoundTemplate,
    records: Sequence[Record],
    *,
    batch_size: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[Prediction]:
    """Name the likeliest class of every record's prompt.

    Args:
        model: A model with a classification head that names its classes.
        tokenizer: The model's tokenizer.
        template: The template bound to that tokenizer.
        records: Rows; only their prompts are shown to the model.
        batch_size: Rows per forward pass.
        on_progress: Called with the number of rows done.

    Raises:
        DataError: There are no records.
        TemplateError: The template does not fit a row.
    """
    if not records:
        raise DataError("there are no rows to predict; at least one is needed")
    names = {int(index): str(name) for index, name in model.config.id2label.items()}
    prompts = [template.generation_prompt(record) for record in records]
    scorer = make_scorer(model.eval())
    found: list[str] = []
    size = batch_size or _ROWS_PER_PASS
    for start in range(0, len(prompts), size):
        part = prompts[start : start + size]
        with torch.no_grad():
            scores_SL = scorer.class_scores(build_tree([scored_sequence(ids) for ids in part]))
        found += [names[index] for index in scores_SL.argmax(dim=-1).tolist()]
        if on_progress is not None:
            on_progress(len(part))
    return [
        Prediction(decode(tokenizer, prompt, skip_special_tokens=False), (record.answer or "").strip(), name)
        for record, prompt, name in zip(records, prompts, found, strict=True)
    ]
