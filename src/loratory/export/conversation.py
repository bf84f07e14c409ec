"""A bound template told as fixed texts, so that other engines can lay out a conversation as training did.

The texts are found by asking the template itself: prompts with stand-in contents show what stands around them. The
finding is then held against the template on other conversations, and a template that is no such frame is refused.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from loratory.data.records import Origin, Record, Turn
from loratory.data.templates import BoundTemplate
from loratory.errors import TemplateError

_SYSTEM, _USER, _ANSWER, _NEXT = "Zebra9", "Quokka8", "Walrus7", "Ibex6"
_PROBES: tuple[tuple[Turn, ...], ...] = (
    (Turn("user", "Hi"),),
    (Turn("system", "Be brief."), Turn("user", "Name\ntwo.")),
    (Turn("user", "1"), Turn("assistant", "2"), Turn("user", "3"), Turn("assistant", "4"), Turn("user", "5")),
    (Turn("system", "S"), Turn("user", "a b"), Turn("assistant", "{c}"), Turn("user", "'d\" {{e}}")),
)


@dataclass(frozen=True, slots=True)
class ConversationFrame:
    """What a template writes around the texts of a conversation.

    Attributes:
        opening: Before the first question when there is no system text.
        system_start: Before the system text; None when the template knows no system text.
        system_end: Between the system text and the first question.
        generation: Between a question and where the model begins to answer.
        answer_start: Before an answer that is given (a space that the model writes itself when it answers).
        answer_end: Between an answer and the next question; None when the template knows one exchange only.
        stop_texts: The tokens that end an answer, as text.
    """

    opening: str
    system_start: str | None
    system_end: str
    generation: str
    answer_start: str
    answer_end: str | None
    stop_texts: tuple[str, ...]

    def render(self, turns: Sequence[Turn]) -> str:
        """The prompt of a conversation that ends with a question."""
        first, rest = turns[0], turns
        text = self.opening
        if first.role == "system":
            text = f"{self.system_start}{first.content}{self.system_end}"
            rest = turns[1:]
        for turn in rest:
            if turn.role == "user":
                text += turn.content + self.generation
            else:
                text += self.answer_start + turn.content + str(self.answer_end)
        return text

    def without_bos(self, bos: str | None) -> "ConversationFrame":
        """The frame for an engine that puts BOS before every prompt itself."""
        if not bos:
            return self
        start = self.system_start
        return replace(
            self,
            opening=self.opening.removeprefix(bos),
            system_start=None if start is None else start.removeprefix(bos),
        )


def conversation_frame(template: BoundTemplate, tokenizer: PreTrainedTokenizerBase) -> ConversationFrame:
    """Find the frame of a template.

    Raises:
        TemplateError: The template is no fixed frame (it writes a date, say, or rewrites contents).
    """
    plain = _prompt(template, tokenizer, Turn("user", _USER))
    opening, generation = _around(plain, _USER, template.name)
    start, end = None, ""
    try:
        with_system = _prompt(template, tokenizer, Turn("system", _SYSTEM), Turn("user", _USER))
    except TemplateError:
        with_system = None
    if with_system is not None:
        start, rest = _around(with_system, _SYSTEM, template.name)
        end, _ = _around(rest, _USER, template.name)
    answer_start, answer_end = "", None
    try:
        exchange = _prompt(template, tokenizer, Turn("user", _USER), Turn("assistant", _ANSWER), Turn("user", _NEXT))
    except TemplateError:
        exchange = None
    if exchange is not None:
        before, after = _around(exchange, _ANSWER, template.name)
        answer_start = before.removeprefix(plain)
        answer_end, _ = _around(after, _NEXT, template.name)
    stops = tuple(str(tokenizer.convert_ids_to_tokens(token_id)) for token_id in template.stop_token_ids)
    frame = ConversationFrame(opening, start, end, generation, answer_start, answer_end, stops)
    _check(frame, template, tokenizer)
    return frame


def to_jinja(frame: ConversationFrame) -> str:
    """The frame as a chat template for Hugging Face tokenizers, llama.cpp and vLLM."""
    system = (
        _emit(frame.system_start) + "{{ messages[0]['content'] }}" + _emit(frame.system_end)
        if frame.system_start is not None
        else "{{ raise_exception('this template knows no system text') }}"
    )
    answer = (
        "{% if not loop.last %}" + _emit(frame.answer_end) + "{% endif %}"
        if frame.answer_end is not None
        else "{{ raise_exception('this template knows one exchange only') }}"
    )
    return (
        "{% if messages[0]['role'] == 'system' %}" + system + "{% else %}" + _emit(frame.opening) + "{% endif %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ message['content'] }}" + _emit(frame.generation) + "{% endif %}"
        "{% if message['role'] == 'assistant' %}"
        + _emit(frame.answer_start)
        + "{{ message['content'] }}"
        + answer
        + "{% endif %}"
        "{% endfor %}"
    )


def to_go(frame: ConversationFrame) -> str:
    """The frame as an Ollama template (Go's text/template), which is given the messages and the system text."""
    opening = _go_text(frame.opening)
    if frame.system_start is not None:
        system = _go_text(frame.system_start) + "{{ .System }}" + _go_text(frame.system_end)
        opening = "{{ if .System }}" + system + "{{ else }}" + opening + "{{ end }}"
    generation = _go_text(frame.generation)
    if frame.answer_end is None:
        return opening + "{{ .Prompt }}" + generation + "{{ .Response }}"
    return (
        opening + "{{ range $i, $m := .Messages }}"
        '{{ if eq $m.Role "user" }}{{ $m.Content }}' + generation + "{{ end }}"
        '{{ if eq $m.Role "assistant" }}' + _go_text(frame.answer_start) + "{{ $m.Content }}"
        "{{ if gt (len (slice $.Messages $i)) 1 }}" + _go_text(frame.answer_end) + "{{ end }}{{ end }}{{ end }}"
    )


def _prompt(template: BoundTemplate, tokenizer: PreTrainedTokenizerBase, *turns: Turn) -> str:
    question = next(turn.content for turn in turns if turn.role == "user")
    record = Record(turns, Origin("export", 1), {"instruction": question})
    ids = template.generation_prompt(record)
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _around(text: str, content: str, name: str) -> tuple[str, str]:
    before, found, after = text.partition(content)
    if not found:
        raise TemplateError(f"template '{name}' rewrites the contents of turns, so no other engine can be told of it")
    return before, after


def _check(frame: ConversationFrame, template: BoundTemplate, tokenizer: PreTrainedTokenizerBase) -> None:
    for turns in _PROBES:
        if turns[0].role == "system" and frame.system_start is None:
            continue
        if len(turns) > 2 and frame.answer_end is None:
            continue
        wanted, found = _prompt(template, tokenizer, *turns), frame.render(turns)
        if wanted != found:
            raise TemplateError(
                f"template '{template.name}' is no fixed frame around the turns: it renders {wanted!r} where a frame "
                f"would give {found!r}. Serve the model where its own template runs (loratory serve, vLLM)"
            )


def _emit(text: str | None) -> str:
    """Jinja that writes a text as it is."""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""


def _go_text(text: str) -> str:
    """A text inside a Go template; braces that would open an action are quoted."""
    return text.replace("{{", '{{ "{{" }}')
