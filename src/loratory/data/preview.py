"""What one example becomes: its tokens in order, each trained or masked."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from loratory.data.records import Record
from loratory.data.sequence import TokenSequence
from loratory.data.templates import BoundTemplate


@dataclass(frozen=True, slots=True)
class TokenView:
    """One token as it is shown.

    Attributes:
        text: Its text; bytes of a character that is spread over tokens stand as `<0xE2>`.
        token_id: Its id.
        weight: Weight of its prediction in the loss; 0 is masked.
    """

    text: str
    token_id: int
    weight: float


@dataclass(frozen=True, slots=True)
class Example:
    """One row as the model sees it.

    Attributes:
        place: `file:line`.
        tokens: All tokens, before the length limit.
        prompt_length: Tokens of the generation prompt.
        num_supervised: Tokens that are trained.
    """

    place: str
    tokens: tuple[TokenView, ...]
    prompt_length: int
    num_supervised: int


def preview_records(
    records: Sequence[Record], template: BoundTemplate, tokenizer: PreTrainedTokenizerBase
) -> list[Example]:
    """Lay rows out as they would be trained.

    Raises:
        TemplateError: If the template cannot express a row; names it.
    """
    return [
        Example(str(record.origin), _views(sequence, tokenizer), sequence.prompt_length, sequence.num_supervised)
        for record, sequence in zip(records, template.sequences(records), strict=True)
    ]


def _views(sequence: TokenSequence, tokenizer: PreTrainedTokenizerBase) -> tuple[TokenView, ...]:
    ids = sequence.token_ids.tolist()
    return tuple(
        TokenView(_token_text(token_id, tokenizer), token_id, weight)
        for token_id, weight in zip(ids, sequence.weights.tolist(), strict=True)
    )


def _token_text(token_id: int, tokenizer: PreTrainedTokenizerBase) -> str:
    decoded = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    text = decoded if isinstance(decoded, str) else "".join(decoded)
    if "\ufffd" not in text and text:
        return text
    return str(tokenizer.convert_ids_to_tokens(token_id))
