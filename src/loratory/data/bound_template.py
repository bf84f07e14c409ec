"""A template bound to a tokenizer: records in, token sequences out.

Template law: the ids of a sequence are the generation prompt's ids followed by the answer's ids, stop token included.
It holds by construction: both are concatenations of separately tokenised segments, and prompt and answer never share
one.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from loratory.data.contract import encoding_sha256, template_contract
from loratory.data.records import Record
from loratory.data.segments import Segment, SegmentEncoder
from loratory.data.sequence import TokenSequence
from loratory.errors import TemplateError


class Layout(Protocol):
    """What a kind of template has to say about a record, in text.

    Attributes:
        definition: The template's own text: equal for two layouts of a kind that lay out alike.
        stop_token_ids: Ids at which generation ends; the first one is what is trained.
        has_stop_token: Whether that one follows the final answer.
    """

    definition: str
    stop_token_ids: tuple[int, ...]
    has_stop_token: bool

    def lay_out(self, record: Record, *, with_answer: bool) -> tuple[list[Segment], list[Segment]]:
        """Segments of the generation prompt (earlier answers in it trained) and of the final answer.

        The prompt's segments do not depend on `with_answer`; the answer's are empty without it, and end with the
        stop token when that is to be trained.
        """
        ...


class SegmentTemplate:
    """A layout, an encoder and the training choices: the one implementation of `BoundTemplate`.

    Args:
        name: The template's name as the user knows it.
        layout: How records become segments.
        encoder: How segments become tokens.
        train_on_inputs: Whether prompt tokens carry weight 1 too (the first token never does).
        opening_ids: Tokens put before every sequence (BOS, for templates that do not write it themselves).
        closing_ids: Tokens put behind every prompt, for models that read it as a whole.
    """

    def __init__(
        self,
        name: str,
        layout: Layout,
        *,
        encoder: SegmentEncoder,
        train_on_inputs: bool,
        opening_ids: Sequence[int] = (),
        closing_ids: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.stop_token_ids = layout.stop_token_ids
        self._layout = layout
        self._encoder = encoder
        self._train_on_inputs = train_on_inputs
        self._opening_ids = list(opening_ids)
        self._closing_ids = list(closing_ids)

    def generation_prompt(self, record: Record) -> list[int]:
        """Token ids of the prompt up to where the model begins to answer; an answer in the record is ignored.

        Raises:
            TemplateError: If the template cannot express the record; names its origin.
        """
        segments = self._placed(record, with_answer=False)[0]
        ids = [i for ids in self._encoder.encode(segments) for i in ids]
        return self._with_opening(ids, self._opening_ids) + self._closing_ids

    def sequence(self, record: Record) -> TokenSequence:
        """Token ids and weights of the whole row; every assistant turn is trained.

        Raises:
            TemplateError: If the template cannot express the record or it has no answer; names its origin.
        """
        return self.sequences([record])[0]

    def sequences(self, records: Sequence[Record]) -> list[TokenSequence]:
        """As `sequence` for many records, tokenised together."""
        placed = [self._placed(record, with_answer=True) for record in records]
        encoded = iter(self._encoder.encode([segment for pair in placed for part in pair for segment in part]))
        return [
            self._assemble(prompt, answer, [next(encoded) for _ in range(len(prompt) + len(answer))])
            for prompt, answer in placed
        ]

    def contract(self) -> dict[str, object]:
        """What must be equal at inference: name, stop ids, hashes over probe ids and the tokenizer (JSON-able)."""
        return template_contract(self, self._encoder.tokenizer)

    def encoding_sha256(self) -> str:
        """SHA-256 over all that decides what `sequence` makes of a record: template, tokenizer, training choices."""
        choices: dict[str, object] = {"opening_ids": self._opening_ids, "train_on_inputs": self._train_on_inputs}
        if self._closing_ids:
            choices["closing_ids"] = self._closing_ids
        return encoding_sha256(self, self._encoder.tokenizer, definition=self._layout.definition, choices=choices)

    def _placed(self, record: Record, *, with_answer: bool) -> tuple[list[Segment], list[Segment]]:
        try:
            if record.is_text and with_answer:
                return [], self._whole_text(record.turns[0].content)
            if not record.prompt:
                raise TemplateError("the conversation has no prompt")
            if with_answer and record.answer is None:
                is_pair = ": it is a preference pair, which needs a preference objective" if record.alternatives else ""
                raise TemplateError(f"the row has no answer to train on{is_pair}")
            return self._layout.lay_out(record, with_answer=with_answer)
        except TemplateError as error:
            raise TemplateError(f"{record.origin}: template '{self.name}': {error}") from error

    def _whole_text(self, text: str) -> list[Segment]:
        """A row of plain text: all of it, then the stop token; the template's own words do not enter."""
        body = Segment(self._encoder.mark(text, is_answer=True), trained=True, is_first=True)
        stop = Segment("", trained=True, token_id=self.stop_token_ids[0])
        return [body, stop] if self._layout.has_stop_token else [body]

    def _assemble(self, prompt: list[Segment], answer: list[Segment], ids: list[list[int]]) -> TokenSequence:
        opening = self._opening_ids if prompt else self._encoder.opening_ids
        ids = [self._with_opening(ids[0], opening), *ids[1:]]
        trained = [segment.trained or self._train_on_inputs for segment in (*prompt, *answer)]
        if prompt and self._closing_ids:
            ids[len(prompt) - 1] = ids[len(prompt) - 1] + self._closing_ids
        token_ids = [i for part in ids for i in part]
        weights = np.repeat(np.asarray(trained, dtype=np.float32), [len(part) for part in ids])
        weights[0] = 0.0
        return TokenSequence(np.asarray(token_ids, dtype=np.int64), weights, sum(map(len, ids[: len(prompt)])))

    @staticmethod
    def _with_opening(ids: list[int], opening: Sequence[int]) -> list[int]:
        """Put the opening tokens in front unless the text already begins with them."""
        return ids if opening and ids[: len(opening)] == list(opening) else [*opening, *ids]
