"""Talking with the model of a run, base and adapter side by side. One model is open at a time."""

import gc
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loratory.engine.finished_run import open_chat
from loratory.errors import ConfigError, RunError
from loratory.infer.chat import Chat


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and what came of it.

    Attributes:
        question: What was asked.
        answer: By the adapter, or by a whole trained model.
        base: By the untrained base; None where the run has no adapter that could be switched off.
    """

    question: str
    answer: str
    base: str | None


class Talk:
    """The conversation of the page."""

    def __init__(self) -> None:
        self._chat: Chat | None = None
        self._has_base = False
        self._exchanges: list[Exchange] = []
        self._name = ""
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Whose model is open; empty when none is."""
        return self._name

    @property
    def has_base(self) -> bool:
        """Whether the base answers, too."""
        return self._has_base

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """The conversation so far."""
        return tuple(self._exchanges)

    def open(self, path: Path, *, system: str = "", max_new_tokens: int = 256) -> None:
        """Open the model of a finished run and begin anew; runs no code from its folder.

        Raises:
            LoratoryError: It cannot be opened, or does not talk.
        """
        with self._held():
            self._close()
            chat = open_chat(path, max_new_tokens=max_new_tokens, system=system.strip() or None)
            self._chat, self._name, self._has_base = chat, path.name, chat.use_adapter

    def close(self) -> None:
        """Give the model's memory back."""
        with self._held():
            self._close()

    def forget(self) -> None:
        """Begin a new conversation with the same model."""
        with self._held():
            self._exchanges.clear()
            if self._chat is not None:
                self._chat.reset()

    def ask(self, question: str) -> Iterator[tuple[Exchange, ...]]:
        """Ask; yields the conversation as the answers grow, the last time when they are whole.

        Raises:
            ConfigError: No model is open, or there is no question.
            LoratoryError: It cannot be answered; the conversation is as it was.
        """
        if not question.strip():
            raise ConfigError("there is no question")
        with self._held():
            chat = self._chat
            if chat is None:
                raise RunError("no model is open; choose a run and open it")
            yield from self._answers(chat, question)

    def _answers(self, chat: Chat, question: str) -> Iterator[tuple[Exchange, ...]]:
        pieces: queue.Queue[tuple[str, str] | None] = queue.Queue()
        answers = {"base": "", "adapter": ""}

        def work() -> None:
            if self._has_base:
                base, adapter = chat.say_both(question, lambda who, piece: pieces.put((who, piece)))
            else:
                base, adapter = "", chat.say(question, lambda piece: pieces.put(("adapter", piece)))
            self._exchanges.append(self._exchange(question, {"base": base, "adapter": adapter}))

        before = self.exchanges
        # Leaving the block waits for the answer, also when whoever asked has gone: a model answers one at a time.
        with ThreadPoolExecutor(1, thread_name_prefix="answer") as pool:
            future = pool.submit(work)
            future.add_done_callback(lambda _: pieces.put(None))
            while (piece := pieces.get()) is not None:
                answers[piece[0]] += piece[1]
                yield (*before, self._exchange(question, answers))
            future.result()
        yield self.exchanges

    def _exchange(self, question: str, answers: dict[str, str]) -> Exchange:
        return Exchange(question, answers["adapter"], answers["base"] if self._has_base else None)

    def _close(self) -> None:
        self._chat, self._name, self._has_base = None, "", False
        self._exchanges.clear()
        gc.collect()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The model to oneself."""
        if not self._lock.acquire(blocking=False):
            raise RunError("the model is busy with another question; try again when it has answered")
        try:
            yield
        finally:
            self._lock.release()
