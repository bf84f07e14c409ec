"""Tokens with weights: what a row becomes, and all that the tree and the objectives ever see of it.

The weight of a token is the weight of its prediction in the loss: 0 for context, 1 for a trained token.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class TokenSequence:
    """One path of tokens.

    Attributes:
        token_ids: int64 [T].
        weights: float32 [T]; weights[i] weighs the prediction of token i from tokens < i. weights[0] is 0.
        prompt_length: Tokens of the generation prompt; what follows is the answer.
    """

    token_ids: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    prompt_length: int

    def __post_init__(self) -> None:
        assert self.token_ids.shape == self.weights.shape
        assert len(self.token_ids) > 0
        assert self.weights[0] == 0

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def num_supervised(self) -> int:
        """How many tokens carry weight."""
        return int((self.weights != 0).sum())

    @property
    def weight_sum(self) -> float:
        """The sequence's share of the loss normaliser."""
        return float(self.weights.sum(dtype=np.float64))
