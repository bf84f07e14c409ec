"""How an optimizer batch is cut into forward passes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loratory.objective.row import Row
from loratory.tree.build import MIN_SAVED_TOKENS

_MAX_CANDIDATES = 4096


@dataclass(frozen=True, slots=True)
class MicroBatching:
    """How many rows one forward pass takes: a fixed number, or as many as fit a token budget.

    Attributes:
        max_rows: Rows per pass; None: only the budget counts.
        max_tokens: Token budget of a pass; one row alone may exceed it. None: only `max_rows` counts.
        shares_prefixes: The scorer computes common prefixes once, so the budget counts them once. Otherwise it counts
            the rows as padded to the longest of the pass.
    """

    max_rows: int | None
    max_tokens: int | None
    shares_prefixes: bool = False

    def cut(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Cut rows into passes, greedily and in order; the loss does not depend on where."""
        passes: list[list[Row]] = []
        size = self._empty()
        for row in rows:
            grown = size.with_row(row)
            if not passes or self._is_beyond(len(passes[-1]) + 1, grown.num_tokens):
                passes.append([])
                grown = self._empty().with_row(row)
            passes[-1].append(row)
            size = grown
        return passes

    def num_tokens(self, rows: Sequence[Row]) -> int:
        """Tokens that one pass over these rows computes; with shared prefixes about, and never much too few."""
        size = self._empty()
        for row in rows:
            size = size.with_row(row)
        return size.num_tokens

    def fullest(self, rows: Sequence[Row], *, max_rows: int) -> list[Row]:
        """A pass as large as any that `cut` can make of these rows, in whatever order they come.

        Args:
            rows: All rows, at least one.
            max_rows: Rows of a whole batch.
        """
        by_length = sorted(rows, key=lambda row: -row.num_tokens)
        if len(by_length) > _MAX_CANDIDATES:
            by_length = by_length[: _MAX_CANDIDATES // 2] + by_length[-_MAX_CANDIDATES // 2 :]
        chosen = [by_length[0]]
        size = self._empty().with_row(by_length[0])
        for row in by_length[1:]:
            if len(chosen) >= max_rows:
                break
            grown = size.with_row(row)
            if not self._is_beyond(len(chosen) + 1, grown.num_tokens):
                chosen.append(row)
                size = grown
        return chosen

    def _empty(self) -> "_PaddedSize | _SharedSize":
        return _SharedSize() if self.shares_prefixes else _PaddedSize()

    def _is_beyond(self, num_rows: int, num_tokens: int) -> bool:
        has_too_many_rows = self.max_rows is not None and num_rows > self.max_rows
        return has_too_many_rows or (self.max_tokens is not None and num_tokens > self.max_tokens)


@dataclass(frozen=True, slots=True)
class _PaddedSize:
    """Size of a pass whose sequences are padded to the longest."""

    num_sequences: int = 0
    longest: int = 0

    @property
    def num_tokens(self) -> int:
        return self.num_sequences * self.longest

    def with_row(self, row: Row) -> "_PaddedSize":
        longest = max(len(sequence) for sequence in row.sequences)
        return _PaddedSize(self.num_sequences + len(row.sequences), max(self.longest, longest))


@dataclass(frozen=True, slots=True, eq=False)
class _SharedSize:
    """Size of a pass that computes once what all its sequences begin with, and what the sequences of a row do.

    What only some rows share is counted for each of them, so the tree is smaller than this.
    """

    prefix: npt.NDArray[np.int64] | None = None
    num_rows: int = 0
    own_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        return self.own_tokens - _saved_tokens(self.num_rows, 0 if self.prefix is None else len(self.prefix))

    def with_row(self, row: Row) -> "_SharedSize":
        start = row.sequences[0].token_ids
        for sequence in row.sequences[1:]:
            start = start[: _common_length(start, sequence.token_ids)]
        own_tokens = row.num_tokens - _saved_tokens(len(row.sequences), len(start))
        prefix = start if self.prefix is None else self.prefix[: _common_length(self.prefix, start)]
        return _SharedSize(prefix, self.num_rows + 1, self.own_tokens + own_tokens)


def _saved_tokens(num_branches: int, num_common: int) -> int:
    saved = (num_branches - 1) * num_common
    return saved if saved >= MIN_SAVED_TOKENS else 0


def _common_length(left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> int:
    length = min(len(left), len(right))
    differs = np.flatnonzero(left[:length] != right[:length])
    return int(differs[0]) if len(differs) else length
