"""Conversations laid out by the tokenizer's own chat template.

What is trained is found by prefix rendering: the template renders the conversation up to an assistant turn with its
generation prompt, and that text must open the text of the whole; what follows it, up to the end-of-turn token, is the
answer. Nothing is guessed from token ids.

In the usual case the prompt's ids are exactly those of `apply_chat_template(..., add_generation_prompt=True)`.
"""

from collections.abc import Mapping, Sequence

import jinja2
from transformers import PreTrainedTokenizerBase

from loratory.data.records import Record, Turn
from loratory.data.segments import Segment, SegmentEncoder, unmarked
from loratory.errors import TemplateError

# A template that writes today's date would tokenise differently every day; Llama 3's own default date is used instead.
_FIXED_DATE = "26 Jul 2024"
_THINKING_CHOICES: tuple[Mapping[str, object], ...] = ({}, {"enable_thinking": False}, {"enable_thinking": True})
_PROBE = (Turn("user", "probe question"), Turn("assistant", "probe answer"))


class ChatLayout:
    """Lays records out with a tokenizer's chat template.

    Args:
        tokenizer: A tokenizer with a chat template.
        encoder: Marks control strings in row text.
        add_eos_token: Whether the stop token follows the final answer.

    Raises:
        TemplateError: If the template fails on a plain question and answer, or its generation prompt does not open
            the full rendering, or no stop token can be told.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoder: SegmentEncoder, *, add_eos_token: bool) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self.has_stop_token = add_eos_token
        source = chat_template_source(tokenizer)
        self.definition = source
        self._variables: Mapping[str, object] = {"date_string": _FIXED_DATE} if "date_string" in source else {}
        self._variables = {**self._variables, **self._thinking_choice(source)}
        self._tail = self._probe_tail()
        self._stop_text, self._stop_id = self._end_of_turn()
        eos = tokenizer.eos_token_id
        stops = [i for i in (self._stop_id, eos) if i is not None]
        if not stops:
            raise TemplateError(
                "the chat template ends a turn with no control token and the tokenizer has no EOS token"
            )
        self.stop_token_ids: tuple[int, ...] = tuple(dict.fromkeys(stops))

    def lay_out(self, record: Record, *, with_answer: bool) -> tuple[list[Segment], list[Segment]]:
        """Segments up to where the final answer begins (earlier answers are trained), and those of the answer."""
        num_before = len(record.prompt)
        turns = self._marked(record.turns if with_answer else record.prompt, num_before)
        prefix = self._render(turns[:num_before], generation=True)
        return self._prompt(turns[:num_before], prefix), self._answer(turns, prefix) if with_answer else []

    def _prompt(self, turns: Sequence[Turn], rendered: str) -> list[Segment]:
        segments: list[Segment] = []
        done = 0
        for index, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            begin = _opened_by(self._render(turns[:index], generation=True), rendered)
            end = self._answer_end(turns[: index + 1], rendered, begin)
            segments.append(Segment(rendered[done:begin], trained=False, is_first=done == 0))
            segments.append(Segment(rendered[begin:end], trained=True))
            done = end
            if self._stop_id is not None:
                segments.append(Segment("", trained=True, token_id=self._stop_id))
                done += len(self._stop_text)
        return [*segments, Segment(rendered[done:], trained=False, is_first=done == 0)]

    def _answer(self, turns: Sequence[Turn], prefix: str) -> list[Segment]:
        """What the full rendering adds to the generation prompt, up to the end of the turn, then the stop token."""
        rendered = self._render(turns, generation=False)
        begin = _opened_by(prefix, rendered)
        body = rendered[begin : self._answer_end(turns, rendered, begin)]
        if not self.has_stop_token:
            return [Segment(body.removesuffix(self._tail_before_stop), trained=True)]
        return [Segment(body, trained=True), Segment("", trained=True, token_id=self.stop_token_ids[0])]

    def _answer_end(self, upto: Sequence[Turn], rendered: str, begin: int) -> int:
        if self._stop_id is not None:
            end = self._encoder.find_unmarked(self._stop_text, rendered, begin)
        else:
            whole = self._render(upto, generation=False)
            end = len(whole) - len(self._tail) if whole.endswith(self._tail) and rendered.startswith(whole) else -1
        if end < begin:
            raise TemplateError("the chat template does not end the assistant's turn where it is expected to")
        return end

    def _marked(self, turns: Sequence[Turn], num_before: int) -> tuple[Turn, ...]:
        """The turns with control strings marked, once it is certain that the marks change nothing else."""
        marked = tuple(Turn(t.role, self._encoder.mark(t.content, is_answer=t.role == "assistant")) for t in turns)
        if marked == tuple(turns):
            return marked
        shown = {num_before: True, len(turns): len(turns) == num_before}
        for count, generation in shown.items():
            plain = self._render(turns[:count], generation=generation)
            if unmarked(self._render(marked[:count], generation=generation)) != plain:
                raise TemplateError(
                    "the text holds a control string of the template and the template rewrites the text around "
                    "it, so that it cannot be kept as text; remove the control string from the row"
                )
        return marked

    def _render(self, turns: Sequence[Turn], *, generation: bool) -> str:
        return self._render_with(turns, self._variables, generation=generation)

    def _render_with(self, turns: Sequence[Turn], variables: Mapping[str, object], *, generation: bool) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            rendered = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation, **variables
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(turn.role for turn in turns)
            raise TemplateError(f"the chat template refuses a conversation of {roles}: {error}") from None
        assert isinstance(rendered, str)
        return rendered

    def _thinking_choice(self, source: str) -> Mapping[str, object]:
        """The template's own default if its generation prompt opens the full text, else the switch that makes it so."""
        choices = _THINKING_CHOICES if "enable_thinking" in source else _THINKING_CHOICES[:1]
        for choice in choices:
            variables = {**self._variables, **choice}
            prompt = self._render_with(_PROBE[:1], variables, generation=True)
            if self._render_with(_PROBE, variables, generation=False).startswith(prompt):
                return choice
        whole = self._render_with(_PROBE, self._variables, generation=False)
        prompt = self._render_with(_PROBE[:1], self._variables, generation=True)
        raise TemplateError(
            "the chat template's generation prompt does not open its full rendering, so what the model would generate "
            f"and what would be trained differ: prompt {prompt[-60:]!r}, full {whole[-80:]!r}. "
            "Use another template (e.g. data.template: alpaca)"
        )

    def _probe_tail(self) -> str:
        whole = self._render(_PROBE, generation=False)
        answer = _PROBE[-1].content
        if answer not in whole:
            raise TemplateError("the chat template does not render the assistant's answer")
        return whole[whole.rindex(answer) + len(answer) :]

    def _end_of_turn(self) -> tuple[str, int | None]:
        """Text and id of the first control token after an answer; no id if the template writes none there."""
        added = {token.content: i for i, token in self._tokenizer.added_tokens_decoder.items()}
        for text in self._tokenizer.all_special_tokens:
            added.setdefault(text, self._tokenizer.convert_tokens_to_ids(text))
        found = [(self._tail.find(text), -len(text), text) for text in added if text and text in self._tail]
        if not found:
            return "", None
        text = min(found)[2]
        return text, added[text]

    @property
    def _tail_before_stop(self) -> str:
        return self._tail[: self._tail.find(self._stop_text)] if self._stop_id is not None else ""


def _opened_by(prefix: str, rendered: str) -> int:
    """Length of the generation prompt that opens a rendering.

    Raises:
        TemplateError: If it does not open it.
    """
    if not rendered.startswith(prefix):
        raise TemplateError(
            "the chat template renders the conversation so far differently once the answer is there, so the answer "
            f"cannot be told apart: the generation prompt ends {unmarked(prefix)[-40:]!r}, the full text has "
            f"{unmarked(rendered)[max(0, len(prefix) - 40) : len(prefix)]!r} there. "
            "Use another template (e.g. data.template: alpaca)"
        )
    return len(prefix)


def chat_template_source(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's chat template; of several named ones, the default. Empty if there is none."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default", "")
    return template or ""
