"""Reward model: the answer that people chose gets the higher score.

The Bradley–Terry model: the chosen answer wins with probability sigma(r_chosen - r_rejected). A score is read at the
last token of prompt and answer (Bradley and Terry, 1952; Ouyang et al., arXiv 2203.02155). A margin that a row brings
is how far apart its scores should at least be (Touvron et al., arXiv 2307.09288, equation 2); centring keeps the
scores' free constant near zero (Eisenstein et al., arXiv 2312.09244).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from loratory.data.records import Record
from loratory.data.sequence import TokenSequence
from loratory.data.templates import BoundTemplate
from loratory.model.task import ClassHead
from loratory.objective.loss import LossSum, Objective
from loratory.objective.pairs import pair_sequences
from loratory.objective.row import Batch, Facts
from loratory.tree.classes import scored_sequence
from loratory.tree.scorer import Scorer

MARGIN = "margin"
BINS = ((0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.0))
"""Confidence in the preferred answer, max(p, 1 - p), in the ten equal bins of [0, 1] folded at one half."""

_CONFIDENCE, _HITS = "confidence_{:.1f}_{:.1f}", "accuracy_{:.1f}_{:.1f}"


class RewardObjective(Objective):
    """-log sigma(r_chosen - r_rejected - margin), plus centring, per pair; logs accuracy, margin and calibration.

    Args:
        center_coefficient: Weight of (r_chosen + r_rejected)^2.
    """

    name = "reward"

    def __init__(self, *, center_coefficient: float = 0.0) -> None:
        self._center_coefficient = center_coefficient

    def head(self, *, seed: int) -> ClassHead:
        """One score without a name."""
        return ClassHead((), seed)

    def sequences(self, record: Record, template: BoundTemplate) -> tuple[TokenSequence, ...]:
        """Chosen and rejected answer behind their prompt, each scored at its last token.

        Raises:
            DataError: The row is no pair.
            UnusableRowError: Its answers are equal or empty.
        """
        pair = pair_sequences(record, template)
        return tuple(scored_sequence(s.token_ids.tolist(), prompt_length=s.prompt_length) for s in pair)

    def facts(self, record: Record) -> Facts:
        """The row's margin, if it has one."""
        return {} if record.margin is None else {MARGIN: np.array([record.margin])}

    def count(self, row: Sequence[TokenSequence]) -> float:
        """A pair counts one."""
        return 1.0

    def loss(self, scorer: Scorer, batch: Batch) -> LossSum:
        """Summed over pairs."""
        score_S = scorer.class_scores(batch.tree)[:, 0]
        chosen_B, rejected_B = score_S[0::2], score_S[1::2]
        margin_B = score_S.new_tensor(
            [float(row.facts[MARGIN][0]) if MARGIN in row.facts else 0.0 for row in batch.rows]
        )
        loss_B = -torch.nn.functional.logsigmoid(chosen_B - rejected_B - margin_B)
        if self._center_coefficient:
            loss_B = loss_B + self._center_coefficient * (chosen_B + rejected_B) ** 2
        return LossSum(loss_B.sum(), float(len(batch.rows)), _metrics(chosen_B.detach(), rejected_B.detach()))

    def summary(self, metrics: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Means, and the expected calibration error: the bins' gaps between accuracy and confidence, by size.

        A pair's confidence is max(p, 1 - p), where p is the probability that the chosen answer wins; it is a hit when
        the chosen answer has the higher score. Bins: `BINS` (Guo et al., arXiv 1706.04599).
        """
        means = super().summary(metrics)
        gap = count = 0.0
        for low, high in BINS:
            hits, num_pairs = metrics.get(_HITS.format(low, high), (0.0, 0.0))
            confidence, _ = metrics.get(_CONFIDENCE.format(low, high), (0.0, 0.0))
            gap += abs(hits - confidence)
            count += num_pairs
        return means | ({"calibration_error": gap / count} if count else {})


def _metrics(chosen_B: torch.Tensor, rejected_B: torch.Tensor) -> dict[str, tuple[float, float]]:
    num_pairs = float(len(chosen_B))
    gap_B = (chosen_B - rejected_B).double().cpu()
    confidence_B = torch.sigmoid(gap_B.abs())
    hit_B = (gap_B > 0).double()
    bin_B = ((confidence_B - BINS[0][0]) * 10).long().clamp(0, len(BINS) - 1)
    metrics = {
        "accuracy": (float(hit_B.sum()), num_pairs),
        "reward_margin": (float(gap_B.sum()), num_pairs),
        "reward_chosen": (float(chosen_B.sum()), num_pairs),
        "reward_rejected": (float(rejected_B.sum()), num_pairs),
    }
    for index in torch.unique(bin_B).tolist():
        inside_B = bin_B == index
        count = float(inside_B.sum())
        metrics[_HITS.format(*BINS[index])] = (float(hit_B[inside_B].sum()), count)
        metrics[_CONFIDENCE.format(*BINS[index])] = (float(confidence_B[inside_B].sum()), count)
    return metrics
