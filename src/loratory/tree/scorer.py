"""What an objective may ask of a model on a tree. Implementations: the padded twin, the tree path, the fused path."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch

from loratory.tree.tree import TokenTree


@dataclass(frozen=True, slots=True, eq=False)
class WeightedNll:
    """Weighted negative log-likelihood of a tree.

    Attributes:
        sum_nats: Scalar, sum of weight * nll over labels; differentiable when gradients are on.
        num_correct: Labels whose target is the likeliest token, counted by use (comes free with the softmax).
        num_labels: Uses counted in num_correct.
    """

    sum_nats: torch.Tensor
    num_correct: float
    num_labels: float


@dataclass(frozen=True, slots=True, eq=False)
class LabelScores:
    """Log-probability and rank of a tree's labels.

    Attributes:
        logprobs_N: Log-probability of each label in nats, at least fp32.
        is_top_N: bool, whether the label's target is the likeliest token after its predictor.
    """

    logprobs_N: torch.Tensor
    is_top_N: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class TreeOutputs:
    """What one forward pass over a tree gives beside a loss.

    Attributes:
        logprob_N: Log-probability of each label in nats, differentiable.
        entropy_N: Entropy in nats of the distribution that each label was predicted by, differentiable; None unless
            asked for.
        hidden_PD: Hidden states behind the final norm at the asked-for tokens, differentiable.
    """

    logprob_N: torch.Tensor
    entropy_N: torch.Tensor | None
    hidden_PD: torch.Tensor


class Scorer(Protocol):
    """Log-probabilities of a tree's labels under one model; every implementation gives the same values.

    Attributes:
        path: "padded", "tree" or "fused": how the tree is computed.
        reason: One line for the user: why this path was taken.
    """

    @property
    def path(self) -> str: ...

    @property
    def reason(self) -> str: ...

    def nll(self, tree: TokenTree) -> WeightedNll:
        """Weighted sum of negative log-likelihoods over the tree's labels, in nats."""
        ...

    def logprobs(self, tree: TokenTree) -> torch.Tensor:
        """Log-probability of each label, [N], in nats; differentiable when gradients are on."""
        ...

    def label_scores(self, tree: TokenTree) -> LabelScores:
        """Log-probability of each label and whether greedy decoding would take it."""
        ...

    def outputs(self, tree: TokenTree, *, hidden_P: torch.Tensor, needs_entropy: bool = False) -> TreeOutputs:
        """Log-probabilities, and the hidden states of tokens `hidden_P` (flat indices), from one forward pass."""
        ...

    def class_scores(self, tree: TokenTree) -> torch.Tensor:
        """Scores of a model with a classification head, [num_sequences, labels], at least fp32; differentiable.

        Sequences are made by `tree.classes.scored_sequence`.
        """
        ...

    def one_root(self, trees: Sequence[TokenTree]) -> AbstractContextManager[None]:
        """Inside, the trees of one optimizer step may share the computation of their common beginning.

        Score and differentiate them one after the other; gradients are complete when the context has been left.
        """
        ...
