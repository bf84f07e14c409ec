"""A root that all trees of an optimizer step share, computed once for the step.

Gradient accumulation cuts a step into passes, and each pass's tree starts with the same template or system prompt.
The root runs once with its graph kept; every pass reads its keys and values as leaves, whose gradients add up; at the
end the root is differentiated once with the sums. That is exact, since derivatives are linear in the cotangent.
"""

from collections.abc import Sequence

import torch

from loratory.tree.fused.layer import KeysAndValues
from loratory.tree.tree import TokenTree


class SharedRoot:
    """Keys and values of a root in every layer.

    Args:
        tokens_R: The root's tokens.
        results: Keys and values of each layer, part of the root's graph.
    """

    def __init__(self, tokens_R: torch.Tensor, results: Sequence[KeysAndValues]) -> None:
        self._tokens_R = tokens_R
        self._results = results
        self.layers: list[KeysAndValues] = [(_leaf(k), _leaf(v)) for k, v in results]

    def __len__(self) -> int:
        return len(self._tokens_R)

    def is_root_of(self, tree: TokenTree) -> bool:
        """Whether the tree starts with these tokens, and none of them predicts anything."""
        return root_length([tree]) >= len(self) and torch.equal(tree.tokens_T[: len(self)], self._tokens_R)

    def backward(self) -> None:
        """Carry the summed gradients through the root; call once, when all passes are differentiated."""
        pairs = [
            (result, leaf.grad)
            for results, leaves in zip(self._results, self.layers, strict=True)
            for result, leaf in zip(results, leaves, strict=True)
            if leaf.grad is not None and result.requires_grad
        ]
        if pairs:
            torch.autograd.backward([result for result, _ in pairs], [grad for _, grad in pairs])


def _leaf(t: torch.Tensor) -> torch.Tensor:
    return t.detach().requires_grad_(t.requires_grad)


def root_length(trees: Sequence[TokenTree]) -> int:
    """How many tokens all trees have in common at their start, none of them a predictor; 0 if there is nothing."""
    length: int | None = None
    for tree in trees:
        if not tree.segments or len(tree.predictors_N) == 0:
            return 0
        stop = min(tree.segments[0].stop, int(tree.predictors_N.min()))
        length = stop if length is None else min(length, stop)
        differs = torch.nonzero(tree.tokens_T[:length] != trees[0].tokens_T[:length])
        if len(differs):
            length = int(differs[0])
    return length or 0
