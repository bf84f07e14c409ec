"""A conversation with a session: history, streaming, and the adapter on or off."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from peft import PeftModel

from loratory.data.records import Origin, Record, Turn
from loratory.errors import AdapterError
from loratory.infer.decoding import TextStream, decode
from loratory.infer.generate import context_length
from loratory.infer.sampling import Sampling
from loratory.infer.session import Session


class Chat:
    """A multi-turn conversation.

    Args:
        session: The model that answers.
        system: System prompt put before the conversation.
        max_new_tokens: Longest answer.
        sampling: How to draw tokens; None takes the likeliest one.

    Attributes:
        use_adapter: Whether the adapter answers; setting it to False needs a session with an adapter.
    """

    def __init__(
        self,
        session: Session,
        *,
        system: str | None = None,
        max_new_tokens: int = 256,
        sampling: Sampling | None = None,
    ) -> None:
        self._session = session
        self._start: tuple[Turn, ...] = _system_turns(system)
        self._turns: tuple[Turn, ...] = self._start
        self._max_new_tokens = max_new_tokens
        self._sampling = sampling
        self._use_adapter = isinstance(session.model, PeftModel)

    @property
    def history(self) -> tuple[Turn, ...]:
        """The conversation so far, system prompt included."""
        return self._turns

    @property
    def use_adapter(self) -> bool:
        """Whether the adapter answers."""
        return self._use_adapter

    @use_adapter.setter
    def use_adapter(self, value: bool) -> None:
        if not isinstance(self._session.model, PeftModel):
            raise AdapterError("this session has no adapter that could be switched on or off")
        self._use_adapter = value

    def reset(self) -> None:
        """Forget the conversation; the system prompt stays."""
        self._turns = self._start

    def set_system(self, text: str | None) -> None:
        """Give another system prompt, or none; the conversation stays."""
        rest = self._turns[len(self._start) :]
        self._start = _system_turns(text)
        self._turns = (*self._start, *rest)

    def say(
        self,
        text: str,
        on_text: Callable[[str], None] | None = None,
        *,
        on_forgotten: Callable[[int], None] | None = None,
    ) -> str:
        """Add a user turn and answer it.

        A conversation that leaves no room for an answer loses its oldest exchanges.

        Args:
            text: What the user says.
            on_text: Called with pieces of the answer as they come; never with half a character.
            on_forgotten: Called with the number of turns that were dropped, when some were.

        Returns:
            The whole answer, now the last turn of `history`. If answering fails, the history is as it was.

        Raises:
            DataError: When even the question alone does not fit the model's context.
            TemplateError: When the template cannot render the conversation.
            KeyboardInterrupt: When the user stopped the answer; what had come of it is in the history.
        """
        kept, prompt = self._fitted(text)
        dropped = len(self._turns) - len(kept)
        if dropped and on_forgotten is not None:
            on_forgotten(dropped)
        asked = (*kept, Turn("user", text))
        answer_ids: list[int] = []
        stream = TextStream(self._session.tokenizer)

        def show(piece: str) -> None:
            if on_text is not None and piece:
                on_text(piece)

        def take(_row: int, token: int) -> None:
            answer_ids.append(token)
            show(stream.push(token))

        try:
            found = self._generate(prompt, take, num_turns=len(asked))
        except KeyboardInterrupt:
            if answer_ids:
                self._turns = (*asked, Turn("assistant", decode(self._session.tokenizer, answer_ids)))
            raise
        show(stream.flush())
        answer = decode(self._session.tokenizer, found)
        self._turns = (*asked, Turn("assistant", answer))
        return answer

    def say_both(
        self,
        text: str,
        on_text: Callable[[str, str], None] | None = None,
        *,
        on_forgotten: Callable[[int], None] | None = None,
    ) -> tuple[str, str]:
        """Answer one user turn twice, by the base and by the adapter; the adapter's answer is what is remembered.

        Args:
            text: What the user says.
            on_text: Called with "base" or "adapter" and a piece of that answer.
            on_forgotten: As for `say`.

        Returns:
            The base's answer and the adapter's.

        Raises:
            AdapterError: When the session has no adapter that could be switched off.
            DataError, TemplateError, KeyboardInterrupt: As for `say`.
        """
        before, was_on = self._turns, self._use_adapter
        answers = []
        try:
            for name in ("base", "adapter"):
                self.use_adapter = name == "adapter"
                self._turns = before
                show = None if on_text is None else partial(on_text, name)
                answers.append(self.say(text, show, on_forgotten=on_forgotten if name == "base" else None))
        except BaseException:
            self._turns = before
            raise
        finally:
            self._use_adapter = was_on
        return answers[0], answers[1]

    def _fitted(self, text: str) -> tuple[tuple[Turn, ...], list[int]]:
        """The turns that leave room for a question and its answer, and the prompt they make."""
        kept = self._turns
        limit = context_length(self._session.model)
        while True:
            asked = (*kept, Turn("user", text))
            record = Record(turns=asked, origin=Origin("chat", len(asked)), fields={"instruction": text})
            prompt = self._session.template.generation_prompt(record)
            rest = kept[len(self._start) :]
            if limit is None or not rest or len(prompt) + self._max_new_tokens <= limit:
                return kept, prompt
            kept = (*self._start, *rest[2:])

    def _generate(self, prompt: list[int], on_token: Callable[[int, int], None], *, num_turns: int) -> list[int]:
        # Each turn draws its own numbers, so that asking again may answer otherwise.
        sampling = self._sampling and replace(self._sampling, seed=self._sampling.seed + num_turns)
        is_off = isinstance(self._session.model, PeftModel) and not self._use_adapter
        with self._session.without_adapter() if is_off else nullcontext():
            return self._session.generate(
                [prompt], max_new_tokens=self._max_new_tokens, sampling=sampling, on_token=on_token
            )[0]


def _system_turns(text: str | None) -> tuple[Turn, ...]:
    return () if text is None else (Turn("system", text),)
