"""What an objective is, and what it returns: sums and counts, never means.

The step divides once by the count over all micro-batches and ranks, so accumulation and data parallelism cannot
change the loss (accumulation law).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from loratory.data.records import Record
from loratory.data.sequence import TokenSequence
from loratory.data.templates import BoundTemplate
from loratory.tree.scorer import Scorer
from loratory.tree.tree import TokenTree


@dataclass(frozen=True, slots=True, eq=False)
class LossSum:
    """A loss before division.

    Attributes:
        sum: Scalar to differentiate.
        count: What it is divided by, summed over the whole optimizer step first.
        metrics: name -> (sum, count) of further numbers to log.
    """

    sum: torch.Tensor
    count: float
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class Objective(Protocol):
    """Turns records into sequences and a tree of them into a loss. Stateless; never sees the configuration."""

    name: str

    def sequences(self, record: Record, template: BoundTemplate) -> tuple[TokenSequence, ...]:
        """The sequences of one record: one for SFT, two for a pair. Raises DataError when there is nothing to learn."""
        ...

    def count(self, row: Sequence[TokenSequence]) -> float:
        """What one row adds to `LossSum.count`; known from data alone, so that the step can divide before it starts."""
        ...

    def loss(self, scorer: Scorer, tree: TokenTree) -> LossSum:
        """The loss of one micro-batch."""
        ...
