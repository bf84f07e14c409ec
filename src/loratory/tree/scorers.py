"""Choosing the scorer of a model: the fastest path that is exact for it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from loratory.errors import ModelError
from loratory.tree.eligibility import Eligibility, base_of, eligibility
from loratory.tree.fused.scorer import FusedScorer
from loratory.tree.fused.weights import fused_refusal
from loratory.tree.padded import PaddedScorer
from loratory.tree.scorer import LabelScores, Scorer, TreeOutputs, WeightedNll
from loratory.tree.text_to_text import TextToTextScorer
from loratory.tree.tree import TokenTree
from loratory.tree.tree_scorer import TreeScorer

ScorerPath = Literal["auto", "padded", "tree", "fused"]


def make_scorer(model: PreTrainedModel | PeftModel, *, path: ScorerPath = "auto") -> Scorer:
    """Pick how a tree is computed.

    Args:
        model: A causal language model, with or without an adapter. Make the scorer when the model is complete: adapter
            attached, dropout set, on its device.
        path: "auto" takes the fastest exact one; the others force one.

    Returns:
        A scorer whose `path` and `reason` say what was taken and why.

    Raises:
        ModelError: The forced path is not exact for this model.
    """
    if base_of(model).config.is_encoder_decoder and path in ("auto", "padded") and not _has_classes(model):
        return TextToTextScorer(model)
    found = eligibility(model)
    match path:
        case "padded":
            return PaddedScorer(model)
        case "tree":
            _require(path, found.refusal or found.training_refusal)
            return TreeScorer(model, reason="requested")
        case "fused":
            _require(path, fused_refusal(model) or found.training_refusal)
            return FusedScorer(model, reason="requested")
        case "auto":
            if found.refusal is not None:
                return PaddedScorer(model, reason=found.refusal)
            if found.training_refusal is not None:
                return SwitchingScorer(model, _fastest(model, found), refusal=found.training_refusal)
            return _fastest(model, found)


def _has_classes(model: PreTrainedModel | PeftModel) -> bool:
    return hasattr(base_of(model), "classification_head")


def _fastest(model: PreTrainedModel | PeftModel, found: Eligibility) -> Scorer:
    beyond = f"; paths beyond the attention window of {found.window} tokens are padded" if found.window else ""
    refusal = fused_refusal(model)
    if refusal is None:
        return FusedScorer(model, reason=f"every token once, fused layers{beyond}")
    return TreeScorer(model, reason=f"every token once, the model's own layers ({refusal}){beyond}")


def _require(path: str, refusal: str | None) -> None:
    if refusal is not None:
        raise ModelError(f"scorer path '{path}' is not exact for this model: {refusal}. Use path 'auto' or 'padded'.")


class SwitchingScorer:
    """The padded twin while the model trains with dropout, a faster scorer while it evaluates.

    Args:
        model: The model; its `training` flag decides.
        evaluation: Scorer without dropout.
        refusal: Why training is padded.

    Attributes:
        path: That of the scorer in use.
        reason: One line.
    """

    def __init__(self, model: torch.nn.Module, evaluation: Scorer, *, refusal: str) -> None:
        self._model = model
        self._evaluation = evaluation
        self._training = PaddedScorer(model, reason=f"padded while training: {refusal}; 0 lets prefixes be shared")

    @property
    def path(self) -> str:
        """Path of the scorer in use."""
        return self._current().path

    @property
    def reason(self) -> str:
        """Reason of the scorer in use."""
        return self._current().reason

    def nll(self, tree: TokenTree) -> WeightedNll:
        """Weighted sum of negative log-likelihoods over the tree's labels."""
        return self._current().nll(tree)

    def logprobs(self, tree: TokenTree) -> torch.Tensor:
        """Log-probability of each label, [N]."""
        return self._current().logprobs(tree)

    def label_scores(self, tree: TokenTree) -> LabelScores:
        """Log-probability of each label and whether greedy decoding would take it."""
        return self._current().label_scores(tree)

    def outputs(self, tree: TokenTree, *, hidden_P: torch.Tensor, needs_entropy: bool = False) -> TreeOutputs:
        """Log-probabilities and hidden states from one forward pass."""
        return self._current().outputs(tree, hidden_P=hidden_P, needs_entropy=needs_entropy)

    def class_scores(self, tree: TokenTree) -> torch.Tensor:
        """Scores of every sequence, [num_sequences, labels]."""
        return self._current().class_scores(tree)

    def one_root(self, trees: Sequence[TokenTree]) -> AbstractContextManager[None]:
        """That of the scorer in use."""
        return self._current().one_root(trees)

    def _current(self) -> Scorer:
        return self._training if self._model.training else self._evaluation
