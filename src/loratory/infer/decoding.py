"""Token ids to text, at once or as they come. A character is shown only when all of its bytes are there."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
    """Text of token ids, spaces left as they are."""
    text = tokenizer.decode(
        list(token_ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
    )
    assert isinstance(text, str)
    return text


class TextStream:
    """Turns a stream of token ids into pieces of text whose concatenation is the text of all ids.

    Byte-level vocabularies cut characters (Chinese, emoji) into several tokens, and sentencepiece ones drop the
    space before the first token they are given; so each piece is the difference of two decodings that begin at a
    token whose text is out already, and it waits while the last character is incomplete.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._token_ids: list[int] = []
        self._begin = 0
        self._shown = 0

    def push(self, token_id: int) -> str:
        """The text that this token completes; often empty inside a character."""
        self._token_ids.append(token_id)
        return self._advance(is_last=False)

    def flush(self) -> str:
        """What is left at the end, incomplete bytes as replacement characters."""
        return self._advance(is_last=True)

    def _advance(self, *, is_last: bool) -> str:
        before = decode(self._tokenizer, self._token_ids[self._begin : self._shown])
        after = decode(self._tokenizer, self._token_ids[self._begin :])
        if len(after) <= len(before) or (after.endswith(REPLACEMENT) and not is_last):
            return ""
        self._begin, self._shown = self._shown, len(self._token_ids)
        return after[len(before) :]
