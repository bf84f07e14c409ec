"""Supervised fine-tuning: cross-entropy of the answer's tokens, averaged over tokens."""

from collections.abc import Sequence

from loratory.data.records import Record
from loratory.data.sequence import TokenSequence
from loratory.data.templates import BoundTemplate
from loratory.errors import DataError
from loratory.objective.loss import LossSum, Objective
from loratory.objective.row import Batch
from loratory.tree.scorer import Scorer


class SftObjective(Objective):
    """Negative log-likelihood in nats per supervised token; logs token accuracy."""

    name = "sft"

    def sequences(self, record: Record, template: BoundTemplate) -> tuple[TokenSequence, ...]:
        """The row as one sequence.

        Raises:
            DataError: No token of the row is supervised, or its answer is labelled a bad one.
        """
        if record.label is False:
            raise DataError(
                f"{record.origin}: the answer is labelled a bad one, which supervised training would teach. Choose an "
                "objective that learns from labels, or remove such rows."
            )
        sequence = template.sequence(record)
        if sequence.num_supervised == 0:
            raise DataError(
                f"{record.origin}: no supervised token (the answer is empty under template '{template.name}'). "
                "Give the row an answer, remove it, or set data.add_eos_token."
            )
        return (sequence,)

    def count(self, row: Sequence[TokenSequence]) -> float:
        """Summed token weights of the row."""
        return sum(sequence.weight_sum for sequence in row)

    def loss(self, scorer: Scorer, batch: Batch) -> LossSum:
        """Weighted nll of the tree; the count is the tree's weight sum."""
        tree = batch.tree
        nll = scorer.nll(tree)
        return LossSum(nll.sum_nats, tree.weight_sum, {"token_accuracy": (nll.num_correct, nll.num_labels)})
