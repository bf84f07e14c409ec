"""What an objective is, and what it returns: sums and counts, never means.

The step divides once by the count over all micro-batches and ranks, so accumulation and data parallelism cannot
change the loss (accumulation law).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from loratory.data.records import Record
from loratory.data.sequence import TokenSequence
from loratory.data.templates import BoundTemplate
from loratory.model.task import ClassHead
from loratory.objective.row import Batch, Facts, Row
from loratory.tree.scorer import Scorer


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


class Objective(ABC):
    """Turns records into sequences and a batch of them into a loss; never sees the configuration.

    Most objectives hold no state. One that trains modules of its own beside the model (a value head) makes them in
    `attach` and keeps them.

    Attributes:
        name: As the configuration calls it.
        needs_reference: Rows get `facts["reference_nats"]`, the weighted log-probability of each of their sequences
            under the policy as it starts, before training does.
        needs_answer: Records without an answer are refused by the reader.
        may_stand_still: A step may have no gradient at all without anything being wrong, as with equal rewards.
    """

    name: str
    needs_reference: bool = False
    needs_answer: bool = True
    may_stand_still: bool = False

    @abstractmethod
    def sequences(self, record: Record, template: BoundTemplate) -> tuple[TokenSequence, ...]:
        """The sequences of one record: one for SFT, two for a pair.

        Raises:
            DataError: The record is not of the kind that the objective learns from.
            UnusableRowError: It is, but nothing can be learnt from this one; it is left out and counted.
        """

    @abstractmethod
    def count(self, row: Sequence[TokenSequence]) -> float:
        """What one row adds to `LossSum.count`; known from data alone, so that the step can divide before it starts."""

    @abstractmethod
    def loss(self, scorer: Scorer, batch: Batch) -> LossSum:
        """The loss of one micro-batch."""

    def facts(self, record: Record) -> Facts:
        """Numbers of the record that the loss needs beside its tokens."""
        return {}

    def texts(self, record: Record) -> Mapping[str, str]:
        """Texts of the record that a reward needs."""
        return {}

    def complete(self, rows: Sequence[Row], *, cutoff_len: int) -> Sequence[Row]:
        """Give rows what depends on their neighbours (companions); rows of one source in their order."""
        return rows

    def learn_labels(self, train: Sequence[Row], validation: Sequence[Row], *, is_split: bool) -> str | None:
        """See the run's rows once before a model is loaded; a line for the user, or None.

        Args:
            train: Training rows.
            validation: Validation rows.
            is_split: The validation rows were split off the training files.

        Raises:
            DataError: They do not make one task.
        """
        return None

    def head(self, *, seed: int) -> ClassHead | None:
        """The classification head that the model needs; None for a language model."""
        return None

    def summary(self, metrics: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """What is logged of metrics that were summed over passes, steps and ranks: their means, and what follows."""
        return {name: total / n for name, (total, n) in metrics.items() if n}

    def attach(self, model: PreTrainedModel | PeftModel, *, seed: int) -> torch.nn.Module | None:
        """Modules trained beside the model, made for its sizes, on its device; None without any."""
        return None

    def statistics(self, scorer: Scorer, rows: Sequence[Row]) -> Mapping[str, tuple[float, float]]:
        """Name -> (sum, count) over the rows of one pass, computed without gradient before the step begins.

        Their means over all passes and ranks reach `loss` as `Batch.statistics`, so that a quantity of the whole
        optimizer batch does not depend on how it is cut.
        """
        return {}
