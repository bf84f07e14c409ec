"""Turn templates: a conversation as fixed texts around each turn, with one control token that ends an answer.

Nothing is rewritten: the text of a turn stands in its slot exactly as it is in the row. Markers that the tokenizer
knows as control tokens become those tokens; the same strings inside a row's text stay text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from string import Formatter

from transformers import PreTrainedTokenizerBase

from loratory.data.records import Record, Turn
from loratory.data.segments import Segment, SegmentEncoder
from loratory.errors import TemplateError

_WITH_CONTENT = ("system", "user", "tool", "assistant")
_WITHOUT_CONTENT = ("opening", "generation", "stop", "after_stop")


@dataclass(frozen=True, slots=True)
class TurnTemplate:
    """The texts of a turn template; `{content}` is the turn's text, `{bos}` and `{eos}` the tokenizer's tokens.

    Attributes:
        description: What it is, for people.
        user: A user turn.
        assistant: An answer, without its stop token.
        stop: The control token that ends an answer; a single token of the tokenizer.
        opening: What stands before the conversation.
        generation: What opens an answer; with the text before it, the generation prompt.
        after_stop: What follows an answer's stop token when the conversation goes on.
        system: A system text; None: the template knows none.
        is_system_in_user: Whether the system text stands inside the first user turn, before its content.
        tool: A tool's result; None: the template knows none.
        default_system: System text of conversations that bring none.
        control_tokens: Further strings that the tokenizer must know as single tokens.
    """

    description: str
    user: str
    assistant: str
    stop: str
    opening: str = ""
    generation: str = ""
    after_stop: str = ""
    system: str | None = None
    is_system_in_user: bool = False
    tool: str | None = None
    default_system: str | None = None
    control_tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        faults = []
        for key in (*_WITH_CONTENT, *_WITHOUT_CONTENT):
            text = getattr(self, key)
            slots = [slot for _, slot in _parts(text, key) if slot not in (None, "bos", "eos")] if text else []
            wanted = ["content"] if key in _WITH_CONTENT else []
            if text is not None and slots != wanted:
                faults.append(
                    f"{key}: has slots {', '.join(map(str, slots)) or 'none'}; needs "
                    f"{'{content} once' if wanted else 'no {content}'}, and may have {{bos}} and {{eos}}"
                )
        if self.default_system is not None and self.system is None:
            faults.append("default_system: needs 'system', which says where it stands")
        if faults:
            raise TemplateError("; ".join(faults))

    @property
    def scaffold(self) -> str:
        """All its texts in one, for finding the control tokens it uses."""
        return "".join(getattr(self, key) or "" for key in (*_WITHOUT_CONTENT, *_WITH_CONTENT))


@cache
def _parts(text: str, key: str) -> tuple[tuple[str, str | None], ...]:
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise TemplateError(f"{key}: {error}; write '{{{{' and '}}}}' for braces that are text") from None
    if any(spec or conversion for _, _, spec, conversion in parsed):
        raise TemplateError(f"{key}: slots are plain {{content}}, {{bos}} and {{eos}}, without ':' or '!'")
    return tuple((literal, slot) for literal, slot, _, _ in parsed)


class TurnLayout:
    """Lays records out with a turn template.

    Args:
        template: The texts.
        encoder: Marks control strings in row text.
        tokenizer: Gives BOS, EOS and the stop token.
        add_eos_token: Whether the stop token follows the final answer.

    Raises:
        TemplateError: If the tokenizer lacks a token that the template needs.
    """

    def __init__(
        self,
        template: TurnTemplate,
        encoder: SegmentEncoder,
        *,
        tokenizer: PreTrainedTokenizerBase,
        add_eos_token: bool,
    ) -> None:
        self.definition = repr(template)
        self._template = template
        self._encoder = encoder
        self.has_stop_token = add_eos_token
        self._special = {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token}
        self._generation = self._fill("generation")
        self._after_stop = self._fill("after_stop")
        self._stop_id = self._token_id(tokenizer)
        ids = (self._stop_id, tokenizer.eos_token_id)
        self.stop_token_ids: tuple[int, ...] = tuple(dict.fromkeys(i for i in ids if i is not None))

    def lay_out(self, record: Record, *, with_answer: bool) -> tuple[list[Segment], list[Segment]]:
        """Segments up to where the final answer begins (earlier answers are trained), and those of the answer."""
        segments: list[Segment] = []
        text, turns = self._opened(record.prompt)
        for turn in turns:
            if turn.role != "assistant":
                text += self._fill(turn.role, self._encoder.mark(turn.content, is_answer=False))
                continue
            segments.append(Segment(text + self._generation, trained=False, is_first=not segments))
            segments += self._answer(turn.content, with_stop=True)
            text = self._after_stop
        segments.append(Segment(text + self._generation, trained=False, is_first=not segments))
        if not with_answer:
            return segments, []
        assert record.answer is not None
        return segments, self._answer(record.answer, with_stop=self.has_stop_token)

    def _opened(self, turns: Sequence[Turn]) -> tuple[str, Sequence[Turn]]:
        """What stands before the first user turn, and the turns that are left to write."""
        text = self._fill("opening")
        system = self._template.default_system
        if turns[0].role == "system":
            system, turns = turns[0].content, turns[1:]
        if not system:
            return text, turns
        if self._template.system is None:
            raise TemplateError("knows no system text; remove it from the row or choose another template")
        filled = self._fill("system", self._encoder.mark(system, is_answer=False))
        if not self._template.is_system_in_user:
            return text + filled, turns
        first, *rest = turns
        text += self._fill("user", filled + self._encoder.mark(first.content, is_answer=False))
        return text, rest

    def _answer(self, content: str, *, with_stop: bool) -> list[Segment]:
        text = self._fill("assistant", self._encoder.mark(content, is_answer=True), is_cut_after=not with_stop)
        body = Segment(text, trained=True)
        return [body, Segment("", trained=True, token_id=self._stop_id)] if with_stop else [body]

    def _fill(self, key: str, content: str = "", *, is_cut_after: bool = False) -> str:
        """One of the template's texts with its slots filled; optionally only up to the content's end."""
        text = getattr(self._template, key)
        if text is None:
            raise TemplateError(f"knows no {key} turn; use a template that does, or 'chat'")
        filled = ""
        for literal, slot in _parts(text, key):
            filled += literal
            if slot == "content":
                filled += content
                if is_cut_after:
                    return filled
            elif slot is not None:
                special = self._special[slot]
                if special is None:
                    raise TemplateError(f"{key}: needs the tokenizer's {slot.upper()} token, and it has none")
                filled += special
        return filled

    def _token_id(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """The stop token's id, once it is certain that every control token is there."""
        stop = self._fill("stop")
        known: dict[str, int] = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
        for text in tokenizer.all_special_tokens:
            known.setdefault(text, tokenizer.convert_tokens_to_ids(text))
        missing = [text for text in dict.fromkeys((*self._template.control_tokens, stop)) if text not in known]
        if missing:
            raise TemplateError(
                f"needs {', '.join(map(repr, missing))} as control tokens and this tokenizer has no such tokens; it "
                f"has {', '.join(sorted(known)[:12]) or 'none'}. Use the tokenizer's own template ('chat') or one with "
                "plain text markers ('alpaca', 'llamafactory_default')"
            )
        return known[stop]


TURN_TEMPLATE_KEYS = tuple(field.name for field in fields(TurnTemplate))
