"""Rows as objectives and the loop see them: token sequences, numbers known before the step, and texts for rewards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from loratory.data.sequence import TokenSequence
from loratory.tree.build import build_tree
from loratory.tree.tree import TokenTree

Facts = Mapping[str, npt.NDArray[np.float64]]


class UnusableRowError(Exception):
    """A row that nothing can be learnt from; it is left out and counted.

    The message is the reason, in the same words for all rows of a kind.
    """


@dataclass(frozen=True, slots=True)
class Row:
    """One record after the objective made sequences of it.

    Attributes:
        sequences: One for SFT, two for a pair, a prompt and nothing else where the policy answers it first.
        origin: Where it came from (file:line), for messages.
        count: Its share of the loss normaliser.
        facts: Name -> numbers that the loss needs and the current weights do not change: reference log-probabilities,
            a margin, advantages.
        texts: Name -> text of the record that a reward looks at, such as its answer.
        companions: Sequences that are scored without gradient, for `Objective.statistics`.
    """

    sequences: tuple[TokenSequence, ...]
    origin: str
    count: float
    facts: Facts = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    companions: tuple[TokenSequence, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens of all its sequences."""
        return sum(len(sequence) for sequence in self.sequences)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The rows of one forward pass and their tree.

    Attributes:
        rows: In order; the tree's sequences are theirs, one row after the other.
        tree: Over `row.sequences` of all rows.
        statistics: What `Objective.statistics` found for the whole optimizer step, as means.
    """

    rows: tuple[Row, ...]
    tree: TokenTree
    statistics: Mapping[str, float] = field(default_factory=dict)


def batch_of(rows: Sequence[Row], statistics: Mapping[str, float] | None = None) -> Batch:
    """The batch of one pass over these rows."""
    tree = build_tree([sequence for row in rows for sequence in row.sequences])
    return Batch(tuple(rows), tree, statistics or {})
