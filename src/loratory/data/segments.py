"""Segments: the pieces of a conversation's text that are tokenised on their own, and their tokens.

Law: text of a row never becomes a control token. Control strings inside row text are wrapped in two Unicode
noncharacters before a template sees them, so that in the rendered text the template's own markers and look-alikes
from the row can be told apart; the marks never reach the tokens.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from loratory.errors import TemplateError

MARK_OPEN, MARK_CLOSE = "\ufdd0", "\ufdd1"
_MARKS = re.compile(f"[{MARK_OPEN}{MARK_CLOSE}]")
_ANCHOR = "\n"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece tokenised on its own.

    Attributes:
        text: Rendered text, control strings of the row's own text marked; empty when `token_id` is set.
        trained: Whether its tokens belong to an answer.
        token_id: A single control token that stands in place of text (the stop token).
        is_first: Whether it opens the sequence: only there may a tokenizer put its leading space.
    """

    text: str
    trained: bool
    token_id: int | None = None
    is_first: bool = False


def unmarked(text: str) -> str:
    """The text without marks: what the row and the template really say."""
    return _MARKS.sub("", text)


class SegmentEncoder:
    """Tokenises segments with one tokenizer.

    Args:
        tokenizer: Any transformers tokenizer.
        scaffold: Text of the template in which non-special added tokens count as control tokens too.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, scaffold: str = "") -> None:
        self.tokenizer = tokenizer
        added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
        special = {text for text, is_special in added.items() if is_special} | set(tokenizer.all_special_tokens)
        self._special = _alternation(special)
        self._control = _alternation(special | {text for text in added if text in scaffold})

    def mark(self, text: str, *, is_answer: bool) -> str:
        """Wrap control strings in row text.

        An answer may hold added tokens that are not special (a reasoning mark, say), which the model has to learn.

        Raises:
            TemplateError: If the text holds one of the marks' noncharacters.
        """
        if not text.isascii() and _MARKS.search(text):
            raise TemplateError(
                "the text contains U+FDD0 or U+FDD1, which Unicode reserves for internal use; remove it from the row"
            )
        pattern = self._special if is_answer else self._control
        return pattern.sub(lambda match: f"{MARK_OPEN}{match[0]}{MARK_CLOSE}", text)

    def find_unmarked(self, control: str, text: str, start: int) -> int:
        """Position of a control string of the template's own at or after `start`, or -1."""
        position = text.find(control, start)
        while position > 0 and text[position - 1] == MARK_OPEN:
            position = text.find(control, position + 1)
        return position

    def encode(self, segments: Sequence[Segment]) -> list[list[int]]:
        """Token ids per segment; equal texts are tokenised once, all plain texts in one call."""
        keys = [(segment.text, segment.is_first or not self._has_leading_space) for segment in segments]
        wanted = dict.fromkeys(k for k, s in zip(keys, segments, strict=True) if s.token_id is None and s.text)
        plain = [key for key in wanted if not _MARKS.search(key[0])]
        ids: dict[tuple[str, bool], list[int]] = dict(zip(plain, self._plain_batch(plain), strict=True))
        for key in wanted:
            if key not in ids:
                ids[key] = self._marked(*key)
        return [
            [s.token_id] if s.token_id is not None else ids[k] if s.text else []
            for k, s in zip(keys, segments, strict=True)
        ]

    def _plain_batch(self, keys: Sequence[tuple[str, bool]]) -> list[list[int]]:
        if not keys:
            return []
        encoded = self._ids([text if bare else _ANCHOR + text for text, bare in keys])
        return [
            ids if bare else self._without_anchor(ids, text) for (text, bare), ids in zip(keys, encoded, strict=True)
        ]

    def _without_anchor(self, ids: list[int], text: str) -> list[int]:
        anchor = self._anchor_ids
        return ids[len(anchor) :] if ids[: len(anchor)] == anchor else self._ids([text])[0]

    def _marked(self, text: str, bare: bool) -> list[int]:
        """Tokens of a text with marked control strings: those as plain text, the rest as the template means it."""
        result: list[int] = []
        for index, piece in enumerate(re.split(f"{MARK_OPEN}(.*?){MARK_CLOSE}", text, flags=re.DOTALL)):
            if piece:
                is_literal = index % 2 == 1
                piece_is_bare = not self._has_leading_space or (bare and not result)
                result += (
                    self._literal(piece) if is_literal else self._plain_batch([(unmarked(piece), piece_is_bare)])[0]
                )
        return result

    def _literal(self, control: str) -> list[int]:
        """Tokens that spell a control string without being it."""
        control_id = self.tokenizer.convert_tokens_to_ids(control)
        for pieces in ([control], [control[:1], control[1:]], list(control)):
            ids = [
                i
                for piece in pieces
                for i in self._without_anchor(self._ids([_ANCHOR + piece], literal=True)[0], piece)
            ]
            if control_id not in ids and ids:
                return ids
        raise TemplateError(f"the tokenizer has no way to write {control!r} as plain text; remove it from the row")

    def _ids(self, texts: list[str], *, literal: bool = False) -> list[list[int]]:
        encoded: Any = self.tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=literal,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return [list(ids) for ids in encoded["input_ids"]]

    @cached_property
    def _anchor_ids(self) -> list[int]:
        return self._ids([_ANCHOR])[0]

    @cached_property
    def _has_leading_space(self) -> bool:
        """Whether the tokenizer puts a space of its own before a text, which must not happen inside a sequence."""
        alone, after = self._ids(["x", _ANCHOR + "x"])
        anchor = self._anchor_ids
        return after[: len(anchor)] == anchor and after[len(anchor) :] != alone

    @cached_property
    def opening_ids(self) -> list[int]:
        """Tokens that the tokenizer itself puts before a text (BOS), once per sequence."""
        return self._around[0]

    @cached_property
    def closing_ids(self) -> list[int]:
        """Tokens that the tokenizer itself puts behind a text (an encoder's separator, T5's end), if any."""
        return self._around[1]

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        with_special: Any = self.tokenizer("x", verbose=False)
        bare = self._ids(["x"])[0]
        ids = list(with_special["input_ids"])
        start = next((i for i in range(len(ids)) if ids[i : i + len(bare)] == bare), 0)
        return ids[:start], ids[start + len(bare) :]


def _alternation(texts: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted((text for text in texts if text), key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
