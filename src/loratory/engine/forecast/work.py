"""The work of optimizer steps, counted on the rows themselves: tokens, labels, query-key pairs of each forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loratory.engine.micro_batching import MicroBatching
from loratory.objective.row import Row, batch_of
from loratory.tree.attention_plan import AttentionPlan
from loratory.tree.build import build_tree
from loratory.tree.fused.root import root_length
from loratory.tree.fused.scorer import MIN_ROOT_TOKENS
from loratory.tree.tree import TokenTree


@dataclass(frozen=True, slots=True)
class PassWork:
    """One forward and backward pass.

    Attributes:
        tokens: Tokens whose layers are computed, common prefixes once.
        root_tokens: Tokens before them that another pass of the step computed.
        predictors: Tokens whose prediction is used.
        pairs: Query-key pairs of attention as it is tiled.
        kept_pairs: Those whose probabilities are kept for the backward pass.
        padded_tokens: What the padded path computes for the same rows.
        padded_rows: Rows of that.
        padded_logits: Positions of that whose logits are made.
    """

    tokens: int
    root_tokens: int
    predictors: int
    pairs: int
    kept_pairs: int
    padded_tokens: int
    padded_rows: int
    padded_logits: int


@dataclass(frozen=True, slots=True)
class StepWork:
    """One optimizer step.

    Attributes:
        passes: Its passes.
        root_tokens: Tokens computed once for all of them, before the first.
        row_tokens: Tokens of all its rows, before anything is shared.
    """

    passes: tuple[PassWork, ...]
    root_tokens: int
    row_tokens: int

    def num_tokens(self, path: str) -> int:
        """Tokens that a path computes."""
        if path == "padded":
            return sum(each.padded_tokens for each in self.passes)
        return self.root_tokens + sum(each.tokens for each in self.passes)


def step_work(rows: Sequence[Row], batching: MicroBatching, *, path: str) -> StepWork:
    """Cut the rows of a step into passes as training does, and count each."""
    trees = [batch_of(part).tree for part in batching.cut(rows)]
    root = root_length(trees) if path == "fused" and len(trees) > 1 else 0
    root = root if root >= MIN_ROOT_TOKENS else 0
    parts = batching.cut(rows)
    passes = tuple(_pass(tree, part, root=root) for tree, part in zip(trees, parts, strict=True))
    return StepWork(passes, root, sum(row.num_tokens for row in rows))


def pass_work(rows: Sequence[Row], *, root: int = 0) -> PassWork:
    """Count one pass over these rows."""
    return _pass(batch_of(rows).tree, rows, root=root)


def unshared_tokens(rows: Sequence[Row]) -> int:
    """Tokens of these rows that anything depends on, when no prefix is shared."""
    return build_tree([sequence for row in rows for sequence in row.sequences], share=False).num_tokens


def _pass(tree: TokenTree, rows: Sequence[Row], *, root: int) -> PassWork:
    plan = AttentionPlan.from_tree(tree, first_query=root)
    pairs = kept = 0
    for tile in plan.tiles:
        count = tile.num_blocks * tile.length * (tile.path_length + tile.length)
        pairs += count
        kept += count if tile.keeps_probabilities else 0
    ends = [np.flatnonzero(s.weights) for row in rows for s in row.sequences]
    lengths = [int(found[-1]) for found in ends if len(found) and found[-1] > 0]
    columns = np.unique(np.concatenate(ends)) if ends else np.empty(0)
    return PassWork(
        tokens=tree.num_tokens - root,
        root_tokens=root,
        predictors=len(np.unique(tree.predictors_N.numpy())),
        pairs=pairs,
        kept_pairs=kept,
        padded_tokens=len(lengths) * max(lengths, default=0),
        padded_rows=len(lengths),
        padded_logits=len(lengths) * len(columns),
    )
