"""TokenTree: the batch of every objective. Segments with a parent each; a sequence is a path from root to leaf.

Pure data: building it is `tree.build`, computing on it is a `Scorer`. One law: summing `weights_N * nll_N` over the
tree equals summing over the padded batch it was built from.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens `start:stop` of the flat tree; they continue the path that ends with segment `parent` (-1: a root)."""

    parent: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class TokenTree:
    """A batch of token sequences with common prefixes stored once.

    A label is one (predictor, target) pair; a label shared by several sequences stands once, with their weights
    added. `label_M`/`sequence_M`/`weight_M` list every sequence's own use of a label, for objectives that need
    log-probabilities per sequence.

    Attributes:
        tokens_T: int64, flat tree; a parent's tokens stand before its children's.
        positions_T: int64, position of each token along its path.
        segments: In flat order, covering 0..T without gaps, depth first: the descendants of a segment are the tokens
            right behind its `stop`.
        predictors_N: int64, flat index of the token whose hidden state predicts the label (may repeat).
        targets_N: int64, the token predicted.
        weights_N: float32, summed weight of the label over the sequences that use it.
        label_M: int64, label index of each use.
        sequence_M: int64, sequence index (0..num_sequences-1, order of the input) of each use.
        weight_M: float32, the sequence's own weight of the label.
        num_sequences: How many sequences the tree holds.
        num_path_tokens: Tokens of all sequences before sharing.
    """

    tokens_T: torch.Tensor
    positions_T: torch.Tensor
    segments: tuple[Segment, ...]
    predictors_N: torch.Tensor
    targets_N: torch.Tensor
    weights_N: torch.Tensor
    label_M: torch.Tensor
    sequence_M: torch.Tensor
    weight_M: torch.Tensor
    num_sequences: int
    num_path_tokens: int

    @property
    def num_tokens(self) -> int:
        """Tokens computed: each shared prefix once."""
        return int(self.tokens_T.shape[0])

    @property
    def weight_sum(self) -> float:
        """The tree's share of the loss normaliser."""
        return float(self.weight_M.sum(dtype=torch.float64))

    def sum_by_sequence(self, values_N: torch.Tensor) -> torch.Tensor:
        """Weighted sum of per-label values for each sequence, [num_sequences]; differentiable."""
        uses_M = values_N[self.label_M] * self.weight_M.to(values_N.dtype)
        return values_N.new_zeros(self.num_sequences).index_add(0, self.sequence_M, uses_M)
