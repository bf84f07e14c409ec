"""A conversation with a session: history, streaming, and the adapter on or off."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

from peft import PeftModel

from loratory.data.records import Origin, Record, Turn
from loratory.errors import AdapterError
from loratory.infer.decoding import TextStream, decode
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
        self._start: tuple[Turn, ...] = (Turn("system", system),) if system is not None else ()
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

    def say(self, text: str, on_text: Callable[[str], None] | None = None) -> str:
        """Add a user turn and answer it.

        Args:
            text: What the user says.
            on_text: Called with pieces of the answer as they come; never with half a character.

        Returns:
            The whole answer, now the last turn of `history`. If answering fails, the history is as it was.

        Raises:
            DataError: When the conversation no longer fits the model's context.
            TemplateError: When the template cannot render the conversation.
        """
        asked = (*self._turns, Turn("user", text))
        record = Record(turns=asked, origin=Origin("chat", len(asked)), fields={"instruction": text})
        prompt = self._session.template.generation_prompt(record)
        stream = TextStream(self._session.tokenizer)

        def show(piece: str) -> None:
            if on_text is not None and piece:
                on_text(piece)

        # Each turn draws its own numbers, so that asking again may answer otherwise.
        sampling = self._sampling and replace(self._sampling, seed=self._sampling.seed + len(asked))
        is_off = isinstance(self._session.model, PeftModel) and not self._use_adapter
        with self._session.without_adapter() if is_off else nullcontext():
            answer_ids = self._session.generate(
                [prompt],
                max_new_tokens=self._max_new_tokens,
                sampling=sampling,
                on_token=lambda _row, token: show(stream.push(token)),
            )[0]
        show(stream.flush())
        answer = decode(self._session.tokenizer, answer_ids)
        self._turns = (*asked, Turn("assistant", answer))
        return answer
