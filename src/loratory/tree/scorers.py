"""Choosing the scorer of a model: the fastest path that is exact for it."""

from typing import Literal

from peft import PeftModel
from transformers import PreTrainedModel

from loratory.tree.padded import PaddedScorer
from loratory.tree.scorer import Scorer

ScorerPath = Literal["auto", "padded", "tree", "fused"]


def make_scorer(model: PreTrainedModel | PeftModel, *, path: ScorerPath = "auto") -> Scorer:
    """Pick how a tree is computed.

    Args:
        model: A causal language model, with or without an adapter.
        path: "auto" takes the fastest exact one; the others force one.

    Returns:
        A scorer whose `path` and `reason` say what was taken and why.
    """
    return PaddedScorer(model, reason="requested" if path == "padded" else "the only path yet")
