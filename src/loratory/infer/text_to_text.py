"""Answers of an encoder-decoder, by transformers' own generation: its cache holds the encoder's side too."""

from collections.abc import Callable, Sequence

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.data.records import Record
from loratory.data.templates import BoundTemplate
from loratory.errors import ConfigError, DataError
from loratory.infer.decoding import decode
from loratory.infer.predict import Prediction
from loratory.infer.sampling import Sampling

_ROWS_PER_PASS = 16


def answer_records(
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
    """Answer every record's prompt with the likeliest token each time.

    Args:
        model: An encoder-decoder, plain or with its adapter.
        tokenizer: The model's tokenizer.
        template: The template bound to that tokenizer.
        records: Rows; only their prompts are shown to the model.
        max_new_tokens: Longest answer.
        batch_size: Rows side by side.
        sampling: Must be None.
        on_progress: Called with the number of rows done.

    Raises:
        ConfigError: Sampling is asked for.
        DataError: There are no records.
        TemplateError: The template does not fit a row.
    """
    if sampling is not None:
        raise ConfigError("predict.do_sample: an encoder-decoder answers greedily here; set it to false")
    if not records:
        raise DataError("there are no rows to predict; at least one is needed")
    prompts = [template.generation_prompt(record) for record in records]
    pad_token_id = tokenizer.pad_token_id or 0
    size = batch_size or _ROWS_PER_PASS
    answers: list[list[int]] = []
    model.eval()
    for start in range(0, len(prompts), size):
        part = [torch.tensor(ids) for ids in prompts[start : start + size]]
        ids_BT = torch.nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=pad_token_id)
        mask_BT = torch.nn.utils.rnn.pad_sequence([torch.ones_like(ids) for ids in part], batch_first=True)
        with torch.no_grad():
            found_BT = model.generate(
                input_ids=ids_BT.to(model.device),
                attention_mask=mask_BT.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                eos_token_id=list(template.stop_token_ids),
                pad_token_id=pad_token_id,
            )
        answers += [_up_to_stop(row[1:], template.stop_token_ids) for row in found_BT.tolist()]
        if on_progress is not None:
            on_progress(len(part))
    return [
        Prediction(
            decode(tokenizer, prompt, skip_special_tokens=False), record.expected or "", decode(tokenizer, answer)
        )
        for record, prompt, answer in zip(records, prompts, answers, strict=True)
    ]


def _up_to_stop(ids: Sequence[int], stops: Sequence[int]) -> list[int]:
    """The answer without what stands from its stop token on."""
    end = next((index for index, token in enumerate(ids) if token in stops), len(ids))
    return list(ids[:end])
