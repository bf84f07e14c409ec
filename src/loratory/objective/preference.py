"""Learning from preference pairs: DPO and its relatives, SimPO, ORPO.

Sources: DPO arXiv 2305.18290, IPO 2310.12036, SimPO 2405.14734, ORPO 2403.07691. A pair is one tree: the prompt once,
two answers below it. Losses are means over pairs; a log-probability is that of a whole answer.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from loratory.data.records import Record
from loratory.data.sequence import TokenSequence
from loratory.data.templates import BoundTemplate
from loratory.objective.loss import LossSum, Objective
from loratory.objective.pairs import pair_sequences
from loratory.objective.row import Batch
from loratory.tree.scorer import Scorer

REFERENCE_NATS = "reference_nats"


@dataclass(frozen=True, slots=True, eq=False)
class PairNats:
    """Log-probabilities of B pairs' answers, in nats, and their lengths in tokens."""

    chosen_B: torch.Tensor
    rejected_B: torch.Tensor
    chosen_length_B: torch.Tensor
    rejected_length_B: torch.Tensor


class PairObjective(Objective):
    """What all losses over pairs share: sequences, counting, log-probabilities, what is logged."""

    def sequences(self, record: Record, template: BoundTemplate) -> tuple[TokenSequence, ...]:
        """The chosen and the rejected answer; see `pair_sequences`."""
        return pair_sequences(record, template)

    def count(self, row: Sequence[TokenSequence]) -> float:
        """One pair."""
        return 1.0

    def loss(self, scorer: Scorer, batch: Batch) -> LossSum:
        """Sum over the pairs of the batch."""
        nats = pair_nats(scorer, batch)
        loss_B, reward_chosen_B, reward_rejected_B = self.pair_loss(nats, batch)
        chosen_B, rejected_B = reward_chosen_B.detach(), reward_rejected_B.detach()
        num = float(len(loss_B))
        metrics = {
            "reward_chosen": (float(chosen_B.sum()), num),
            "reward_rejected": (float(rejected_B.sum()), num),
            "reward_margin": (float((chosen_B - rejected_B).sum()), num),
            "reward_accuracy": (float((chosen_B > rejected_B).sum()), num),
            "nats_chosen": (float(nats.chosen_B.detach().sum()), num),
            "nats_rejected": (float(nats.rejected_B.detach().sum()), num),
        }
        return LossSum(loss_B.sum(), num, metrics)

    @abstractmethod
    def pair_loss(self, nats: PairNats, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss of each pair and the implicit rewards of its chosen and rejected answer, [B] each."""


class DpoObjective(PairObjective):
    """Direct preference optimisation against a reference, and the losses that differ in its last line.

    Args:
        loss: sigmoid: -log σ(βΔ), with label smoothing the conservative form; hinge: max(0, 1 - βΔ); ipo:
            (δ - 1/(2β))² with δ per token; robust: unbiased under flipped labels (arXiv 2403.00409).
        beta: β.
        label_smoothing: Assumed share of flipped pairs.
        sft_weight: Weight of the chosen answer's mean nll per token.
    """

    name = "dpo"
    needs_reference = True

    def __init__(self, *, loss: str, beta: float, label_smoothing: float, sft_weight: float) -> None:
        self._kind = loss
        self._beta = beta
        self._smoothing = label_smoothing
        self._sft_weight = sft_weight

    def pair_loss(self, nats: PairNats, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Δ is the chosen answer's log-ratio to the reference minus the rejected one's."""
        reference_B2 = nats.chosen_B.new_tensor(np.stack([row.facts[REFERENCE_NATS] for row in batch.rows]))
        chosen_B, rejected_B = nats.chosen_B - reference_B2[:, 0], nats.rejected_B - reference_B2[:, 1]
        if self._kind == "ipo":
            per_token_B = chosen_B / nats.chosen_length_B - rejected_B / nats.rejected_length_B
            loss_B = (per_token_B - 1 / (2 * self._beta)) ** 2
        else:
            loss_B = self._of_margin(self._beta * (chosen_B - rejected_B))
        if self._sft_weight:
            loss_B = loss_B - self._sft_weight * nats.chosen_B / nats.chosen_length_B
        return loss_B, self._beta * chosen_B, self._beta * rejected_B

    def _of_margin(self, margin_B: torch.Tensor) -> torch.Tensor:
        if self._kind == "hinge":
            return torch.relu(1 - margin_B)
        smoothed_B = smoothed_log_loss(margin_B, self._smoothing, sign=-1 if self._kind == "robust" else 1)
        return smoothed_B / (1 - 2 * self._smoothing) if self._kind == "robust" else smoothed_B


class SimpoObjective(PairObjective):
    """SimPO: mean log-probability per token as reward, a target margin γ, no reference.

    Args:
        beta: β.
        gamma: γ, in units of the reward.
        label_smoothing: Assumed share of flipped pairs.
        sft_weight: Weight of the chosen answer's mean nll per token.
    """

    name = "simpo"

    def __init__(self, *, beta: float, gamma: float, label_smoothing: float, sft_weight: float) -> None:
        self._beta = beta
        self._gamma = gamma
        self._smoothing = label_smoothing
        self._sft_weight = sft_weight

    def pair_loss(self, nats: PairNats, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """-log σ(β(mean chosen - mean rejected) - γ)."""
        chosen_B = self._beta * nats.chosen_B / nats.chosen_length_B
        rejected_B = self._beta * nats.rejected_B / nats.rejected_length_B
        loss_B = smoothed_log_loss(chosen_B - rejected_B - self._gamma, self._smoothing)
        if self._sft_weight:
            loss_B = loss_B - self._sft_weight * nats.chosen_B / nats.chosen_length_B
        return loss_B, chosen_B, rejected_B


class OrpoObjective(PairObjective):
    """ORPO: the chosen answer's mean nll plus β times the log odds ratio's loss, no reference.

    The nll is that of the answer alone, as in the paper; some implementations add the prompt's.

    Args:
        beta: β (λ in the paper).
    """

    name = "orpo"

    def __init__(self, *, beta: float) -> None:
        self._beta = beta

    def pair_loss(self, nats: PairNats, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Nll per token - β log σ(log odds of chosen - log odds of rejected), odds of the mean token probability."""
        chosen_B = nats.chosen_B / nats.chosen_length_B
        rejected_B = nats.rejected_B / nats.rejected_length_B
        odds_B = (chosen_B - rejected_B) - (_log1mexp(chosen_B) - _log1mexp(rejected_B))
        return -chosen_B - self._beta * logsigmoid(odds_B), self._beta * chosen_B, self._beta * rejected_B


def pair_nats(scorer: Scorer, batch: Batch) -> PairNats:
    """Summed log-probabilities of the answers of the batch's pairs."""
    nats_S = batch.tree.sum_by_sequence(scorer.logprobs(batch.tree))
    lengths = [[float(sequence.num_supervised) for sequence in row.sequences] for row in batch.rows]
    length_B2 = nats_S.new_tensor(lengths)
    nats_B2 = nats_S.view(-1, 2)
    return PairNats(nats_B2[:, 0], nats_B2[:, 1], length_B2[:, 0], length_B2[:, 1])


def smoothed_log_loss(margin_B: torch.Tensor, smoothing: float, *, sign: int = 1) -> torch.Tensor:
    """-(1 - ε) log σ(m) - sign ε log σ(-m)."""
    return -(1 - smoothing) * logsigmoid(margin_B) - sign * smoothing * logsigmoid(-margin_B)


def _log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0 without cancellation (Mächler 2012); x = 0 counts as the next number below."""
    x = x.clamp(max=-torch.finfo(x.dtype).tiny)
    near = x > -0.6931471805599453
    return torch.where(
        near,
        torch.log(-torch.expm1(torch.where(near, x, -1.0))),
        torch.log1p(-torch.exp(torch.where(near, -1.0, x))),
    )
