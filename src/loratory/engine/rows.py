"""Rows as the loop sees them, and how an optimizer batch is cut into forward passes."""

from collections.abc import Sequence
from dataclasses import dataclass

from loratory.data.sequence import TokenSequence


@dataclass(frozen=True, slots=True)
class Row:
    """One record after the objective made sequences of it.

    Attributes:
        sequences: One for SFT, two for a pair.
        origin: Where it came from (file:line), for messages.
        count: Its share of the loss normaliser.
    """

    sequences: tuple[TokenSequence, ...]
    origin: str
    count: float

    @property
    def num_tokens(self) -> int:
        """Tokens of all its sequences."""
        return sum(len(sequence) for sequence in self.sequences)


@dataclass(frozen=True, slots=True)
class MicroBatching:
    """How many rows one forward pass takes: a fixed number, or as many as fit a token budget.

    Attributes:
        max_rows: Rows per pass; None: only the budget counts.
        max_tokens: Token budget of a pass; one row alone may exceed it. None: only `max_rows` counts.
    """

    max_rows: int | None
    max_tokens: int | None

    def cut(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Cut rows into passes, greedily and in order; the loss does not depend on where."""
        passes: list[list[Row]] = []
        num_tokens = 0
        for row in rows:
            is_full = not passes or (self.max_rows is not None and len(passes[-1]) >= self.max_rows)
            if is_full or (self.max_tokens is not None and num_tokens + row.num_tokens > self.max_tokens):
                passes.append([])
                num_tokens = 0
            passes[-1].append(row)
            num_tokens += row.num_tokens
        return passes
