"""Rows after reading: what every source becomes, before any tokenizer sees it.

A record is text only. It knows where it came from, so that every later complaint can name file and line.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row stands: file (or hub name) and 1-based line (row number where a format has no lines)."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """One row: a conversation, usually ending with the assistant's answer.

    Attributes:
        turns: The conversation; system first if any. The last turn is the assistant's when the row has an answer.
        fields: The row's own text fields (instruction, input, output, …), which field templates fill in.
        origin: Where the row came from.
        alternatives: Of a preference pair, the chosen and the rejected answer; the turns then end with the question.
        label: Of a row with a judged answer, whether the answer is a good one.
        margin: Of a pair, how far apart the scores of its answers should at least be.
    """

    turns: tuple[Turn, ...]
    origin: Origin
    fields: Mapping[str, str] = field(default_factory=dict)
    alternatives: tuple[str, ...] = ()
    label: bool | None = None
    margin: float | None = None

    @property
    def answer(self) -> str | None:
        """The final assistant turn, or None when the row is a prompt only."""
        return self.turns[-1].content if self.turns and self.turns[-1].role == "assistant" else None

    @property
    def expected(self) -> str | None:
        """The answer that a model's own is compared with; None without one, and where it was judged a bad one."""
        return None if self.label is False else self.answer

    @property
    def prompt(self) -> tuple[Turn, ...]:
        """The turns before the answer."""
        return self.turns[:-1] if self.answer is not None else self.turns

    @property
    def is_text(self) -> bool:
        """Whether the row is one text without a prompt: its only turn is what is trained."""
        return len(self.turns) == 1 and self.turns[0].role == "assistant"

    @property
    def prompt_key(self) -> str:
        """Hash of the prompt's normalised text: rows with one prompt share it. Plain text is its own prompt."""
        turns = self.turns if self.is_text else self.prompt
        text = "\x1e".join(f"{t.role}\x1f{' '.join(t.content.split()).casefold()}" for t in turns)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
