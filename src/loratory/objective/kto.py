"""KTO (arXiv 2402.01306): learning from answers that are labelled good or bad, without pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from loratory.data.records import Record
from loratory.data.sequence import TokenSequence
from loratory.data.templates import BoundTemplate
from loratory.errors import DataError
from loratory.objective.loss import LossSum, Objective
from loratory.objective.pairs import answer_sequence
from loratory.objective.preference import REFERENCE_NATS
from loratory.objective.row import Batch, Facts, Row
from loratory.tree.build import build_tree
from loratory.tree.scorer import Scorer

_KL = "kl_nats"
_LABEL = "label"


class KtoObjective(Objective):
    """Good answers are to be likelier than the reference makes them by more than z, bad ones less likely.

    z is an estimate of KL(policy || reference) from answers that belong to other prompts: each row's companion is its
    prompt with the next row's answer. It is taken over the whole optimizer batch, without gradient.

    Args:
        beta: How sharply a difference from z counts.
        desirable_weight: Weight of good answers.
        undesirable_weight: Weight of bad answers.
    """

    name = "kto"
    needs_reference = True

    def __init__(self, *, beta: float, desirable_weight: float, undesirable_weight: float) -> None:
        self._beta = beta
        self._weights = {True: desirable_weight, False: undesirable_weight}

    def sequences(self, record: Record, template: BoundTemplate) -> tuple[TokenSequence, ...]:
        """The prompt and its answer.

        Raises:
            DataError: The row has no label or no answer.
            UnusableRowError: The answer is empty.
        """
        if record.label is None or record.answer is None:
            what = "label" if record.label is None else "answer"
            raise DataError(
                f"{record.origin}: the row has no {what}. kto needs an answer and a label (true or false) in every row."
            )
        return (answer_sequence(record, record.answer, template),)

    def facts(self, record: Record) -> Facts:
        """Whether the answer is a good one."""
        return {_LABEL: np.array([1.0 if record.label else 0.0])}

    def count(self, row: Sequence[TokenSequence]) -> float:
        """One answer."""
        return 1.0

    def complete(self, rows: Sequence[Row], *, cutoff_len: int) -> Sequence[Row]:
        """Give each row the next row's answer behind its own prompt; the last one takes the first one's.

        Raises:
            DataError: There is only one row, so no answer of another prompt.
        """
        if len(rows) < 2:
            raise DataError(
                f"kto needs at least 2 usable rows, to compare with answers of other prompts; got {len(rows)}."
            )
        shifted = [*rows[1:], rows[0]]
        return [
            replace(row, companions=(_mismatched(row.sequences[0], other.sequences[0], cutoff_len),))
            for row, other in zip(rows, shifted, strict=True)
        ]

    def statistics(self, scorer: Scorer, rows: Sequence[Row]) -> Mapping[str, tuple[float, float]]:
        """Sum of log-ratios of the companions."""
        tree = build_tree([row.companions[0] for row in rows])
        nats_S = tree.sum_by_sequence(scorer.logprobs(tree).double()).cpu()
        reference_S = torch.from_numpy(np.stack([row.facts[REFERENCE_NATS][1] for row in rows]))
        return {_KL: (float((nats_S - reference_S).sum()), float(len(rows)))}

    def loss(self, scorer: Scorer, batch: Batch) -> LossSum:
        """Sum of w (1 - σ(±β(log-ratio - z))) over the rows."""
        nats_B = batch.tree.sum_by_sequence(scorer.logprobs(batch.tree))
        reference_B = nats_B.new_tensor([float(row.facts[REFERENCE_NATS][0]) for row in batch.rows])
        labels = [bool(row.facts[_LABEL][0]) for row in batch.rows]
        sign_B = nats_B.new_tensor([1.0 if label else -1.0 for label in labels])
        weight_B = nats_B.new_tensor([self._weights[label] for label in labels])
        z = max(0.0, batch.statistics.get(_KL, 0.0))
        ratio_B = nats_B - reference_B
        loss_B = weight_B * (1 - torch.sigmoid(sign_B * self._beta * (ratio_B - z)))
        reward_B = (self._beta * ratio_B).detach()
        good = sign_B > 0
        num, num_good = float(len(labels)), float(good.sum())
        metrics = {
            "kl": (z * num, num),
            "reward_chosen": (float(reward_B[good].sum()), num_good),
            "reward_rejected": (float(reward_B[~good].sum()), num - num_good),
        }
        return LossSum(loss_B.sum(), num, metrics)


def _mismatched(own: TokenSequence, other: TokenSequence, cutoff_len: int) -> TokenSequence:
    """The prompt of one row and the answer of another, cut at its end to the cutoff; an answer token always stays."""
    prompt = own.token_ids[: own.prompt_length]
    answer = other.token_ids[other.prompt_length :][: max(1, cutoff_len - len(prompt))]
    weights = np.concatenate([np.zeros(len(prompt), dtype=np.float32), np.ones(len(answer), dtype=np.float32)])
    return TokenSequence(np.concatenate([prompt, answer]), weights, len(prompt))
