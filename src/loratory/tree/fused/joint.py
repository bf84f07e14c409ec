"""One pass over the trees of several models that share a frozen base: its weights are read once for all of them.

Rows of different models never meet: attention stays in each tree, adapters act on their own model's rows. The products
of all rows together round otherwise than those of each model's alone, so the results are equal but for that.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch

from loratory.tree.attention_plan import AttentionPlan
from loratory.tree.fused.layer import run_layer
from loratory.tree.fused.scorer import FusedScorer
from loratory.tree.fused.several import join_layers
from loratory.tree.tree import Segment, TokenTree


def joint_hidden(scorers: Sequence[FusedScorer], trees: Sequence[TokenTree]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Hidden states of the predictors of each model's tree.

    Args:
        scorers: Of models with the same frozen weights, each with its own adapter.
        trees: One for each, with at least one label; `FusedScorer.can_join` says whether it may be one of them.

    Returns:
        For each model the distinct predictors, int64 [P], and their hidden states in front of the final norm, [P, D],
        for `FusedScorer.given`; differentiable in the adapters of that model alone.
    """
    starts = _starts([tree.num_tokens for tree in trees])
    rows = [torch.unique(tree.predictors_N) for tree in trees]
    bounds_P = _starts([len(each) for each in rows])
    hidden_TD, shared = scorers[0].embed(
        torch.cat([tree.tokens_T for tree in trees]),
        torch.cat([tree.positions_T for tree in trees]),
        AttentionPlan.from_segments(_segments(trees, starts)),
        bounds_Q=starts,
        bounds_P=bounds_P,
    )
    layers = [join_layers(each) for each in zip(*(scorer.layers() for scorer in scorers), strict=True)]
    for layer in layers[:-1]:
        hidden_TD = run_layer(hidden_TD, layer, shared)
    wanted_P = torch.cat([each + start for each, start in zip(rows, starts, strict=False)])
    hidden_PD = run_layer(hidden_TD, layers[-1], shared, rows_P=wanted_P)
    return list(zip(rows, torch.split(hidden_PD, [len(each) for each in rows]), strict=True))


def _starts(lengths: Sequence[int]) -> tuple[int, ...]:
    return tuple(accumulate(lengths, initial=0))


def _segments(trees: Sequence[TokenTree], starts: Sequence[int]) -> list[Segment]:
    """The segments of all trees behind each other."""
    found: list[Segment] = []
    for tree, start in zip(trees, starts, strict=False):
        before = len(found)
        found += [
            Segment(each.parent + before if each.parent >= 0 else -1, each.start + start, each.stop + start)
            for each in tree.segments
        ]
    return found
