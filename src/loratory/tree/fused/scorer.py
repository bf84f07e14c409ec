"""The fused scorer: a tree through the Llama family's layers, each one autograd function, and the label-only head."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from loratory.errors import ModelError
from loratory.tree.attention_plan import AttentionPlan
from loratory.tree.classes import reading_tokens, score_layer
from loratory.tree.eligibility import base_of, eligibility
from loratory.tree.fused.attention_half import LayerInput
from loratory.tree.fused.elementwise import rms_norm, rms_norm_backward, rms_scale
from loratory.tree.fused.layer import KeysAndValues, run_layer, run_root_layer
from loratory.tree.fused.root import SharedRoot, root_length
from loratory.tree.fused.weights import (
    LayerWeights,
    NormWeights,
    UnfusableError,
    final_norm,
    fused_refusal,
    read_layers,
)
from loratory.tree.head import FrozenHead, RecomputedHead, score_outputs
from loratory.tree.padded import PaddedScorer
from loratory.tree.scorer import LabelScores, Scorer, TreeOutputs, WeightedNll
from loratory.tree.tree import Segment, TokenTree
from loratory.tree.tree_scorer import TreeScorer

MIN_ROOT_TOKENS = 8
"""A shorter shared root costs as much in calls as it saves in products."""


class FusedScorer:
    """Scores a tree with fused layers.

    Trees with paths beyond an attention window, and calls under autocast, go to the tree scorer instead.

    Args:
        model: A model for which `fused_refusal` finds nothing.
        reason: One line for the user.

    Attributes:
        path: "fused".
        reason: One line.

    Raises:
        ModelError: The model is not eligible.
    """

    path = "fused"

    def __init__(self, model: PreTrainedModel | PeftModel, *, reason: str = "requested") -> None:
        refusal = fused_refusal(model)
        if refusal is not None:
            raise ModelError(f"scorer path 'fused' is not exact for this model: {refusal}. Use path 'auto' or 'tree'.")
        self.reason = reason
        self._model = model
        self._base = base_of(model)
        self._window = eligibility(model).window
        self._head: FrozenHead | None = None
        self._root: SharedRoot | None = None
        self._given: tuple[TokenTree, torch.Tensor, torch.Tensor] | None = None

    def nll(self, tree: TokenTree) -> WeightedNll:
        """Weighted sum of negative log-likelihoods over the tree's labels."""
        other = self._other(tree)
        if other is not None:
            return other.nll(tree)
        logprob_N, correct_N = self._score(tree)
        return WeightedNll(
            sum_nats=-(logprob_N * tree.weights_N.to(logprob_N)).sum(),
            num_correct=float(correct_N[tree.label_M].sum()),
            num_labels=float(len(tree.label_M)),
        )

    def logprobs(self, tree: TokenTree) -> torch.Tensor:
        """Log-probability of each label, [N]."""
        other = self._other(tree)
        return self._score(tree)[0] if other is None else other.logprobs(tree)

    def label_scores(self, tree: TokenTree) -> LabelScores:
        """Log-probability of each label and whether greedy decoding would take it."""
        other = self._other(tree)
        if other is not None:
            return other.label_scores(tree)
        # By torch's log_softmax, whose rounding over a large vocabulary others' numbers have too.
        head = RecomputedHead(self._base.get_output_embeddings(), self._base.config.vocab_size)
        return LabelScores(*self._score(tree, head))

    def outputs(self, tree: TokenTree, *, hidden_P: torch.Tensor, needs_entropy: bool = False) -> TreeOutputs:
        """Log-probabilities and hidden states from one forward pass."""
        other = self._other(tree)
        if other is not None:
            return other.outputs(tree, hidden_P=hidden_P, needs_entropy=needs_entropy)
        wanted_X = torch.cat([tree.predictors_N, hidden_P.cpu()])
        rows_Q, place_X = torch.unique(wanted_X, return_inverse=True)
        hidden_QD = _rms_norm(self._hidden(tree, rows_Q), final_norm(self._model))
        place_N, place_P = place_X[: len(tree.predictors_N)], place_X[len(tree.predictors_N) :]
        asked_PD = hidden_QD.index_select(0, place_P)
        if needs_entropy or len(tree.predictors_N) == 0:
            head, num_tokens = self._base.get_output_embeddings(), self._base.config.vocab_size
            predicting_R, row_N = torch.unique(place_N, return_inverse=True)
            logprob_N, entropy_N = score_outputs(
                head, num_tokens, hidden_QD[predicting_R], row_N, tree.targets_N, needs_entropy=needs_entropy
            )
            return TreeOutputs(logprob_N, entropy_N, asked_PD)
        predicting_R, row_N = torch.unique(place_N, return_inverse=True)
        return TreeOutputs(self.linear_head()(hidden_QD[predicting_R], row_N, tree.targets_N)[0], None, asked_PD)

    def class_scores(self, tree: TokenTree) -> torch.Tensor:
        """Scores of every sequence, [num_sequences, labels]."""
        other = self._other(tree)
        score = score_layer(self._base)
        if other is not None or score is None:
            return (other or PaddedScorer(self._model)).class_scores(tree)
        reading_S = reading_tokens(tree, self._base.config.get_text_config().pad_token_id)
        rows_Q, place_S = torch.unique(reading_S, return_inverse=True)
        hidden_QD = _rms_norm(self._hidden(tree, rows_Q), final_norm(self._model))
        scores_SL: torch.Tensor = score(hidden_QD)[place_S]
        return scores_SL

    def _other(self, tree: TokenTree) -> Scorer | None:
        """Who scores what the fused layers cannot."""
        is_too_long = self._window is not None and tree.num_tokens > 0 and int(tree.positions_T.max()) >= self._window
        if is_too_long or torch.is_autocast_enabled("cpu"):
            return TreeScorer(self._model, reason="autocast or a path longer than the attention window")
        return None

    def _score(self, tree: TokenTree, head: RecomputedHead | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        if len(tree.targets_N) == 0:
            return torch.zeros(0, dtype=self._base.dtype), torch.zeros(0, dtype=torch.bool)
        predictors_P, row_N = torch.unique(tree.predictors_N, return_inverse=True)
        hidden_PD = self._hidden(tree, predictors_P)
        hidden_PD = _rms_norm(hidden_PD, final_norm(self._model))
        return (head or self.linear_head())(hidden_PD, row_N, tree.targets_N)

    @contextmanager
    def one_root(self, trees: Sequence[TokenTree]) -> Iterator[None]:
        """Compute the beginning that the trees of an optimizer step share once for all of them.

        Inside, score and differentiate the trees one after the other; gradients of the parameters are complete when
        the context has been left. Outside, or for a tree that does not start like these, nothing changes. Gradients
        are exactly those without the context; a shared beginning shorter than `MIN_ROOT_TOKENS` is not worth it.
        """
        length = root_length(trees)
        if len(trees) < 2 or length < MIN_ROOT_TOKENS or any(self._other(tree) is not None for tree in trees):
            yield
            return
        self._root = self._run_root(trees[0].tokens_T[:length], trees[0].positions_T[:length])
        root = self._root
        try:
            yield
        finally:
            self._root = None
        root.backward()

    def can_join(self, tree: TokenTree) -> bool:
        """Whether a tree may be computed in a pass that several models share; see `tree.fused.joint`."""
        return len(tree.targets_N) > 0 and self._other(tree) is None

    @contextmanager
    def given(self, tree: TokenTree, rows_P: torch.Tensor, hidden_PD: torch.Tensor) -> Iterator[None]:
        """Inside, the hidden states of these rows of this tree, in front of the final norm, are known already."""
        self._given = tree, rows_P, hidden_PD
        try:
            yield
        finally:
            self._given = None

    def share_head(self, other: "FusedScorer") -> None:
        """Use the head of a scorer of the same base, so that its buffer of logits is there once; not across threads."""
        self._head = other.linear_head()

    def _run_root(self, tokens_R: torch.Tensor, positions_R: torch.Tensor) -> SharedRoot:
        layers = self.layers()
        plan = AttentionPlan.from_segments([Segment(-1, 0, len(tokens_R))])
        hidden_RD, shared = self.embed(tokens_R, positions_R, plan)
        results: list[KeysAndValues] = []
        for layer in layers:
            hidden_RD, keys = run_root_layer(hidden_RD, layer, shared, is_last=layer is layers[-1])
            results.append(keys)
        return SharedRoot(tokens_R, results)

    def _hidden(self, tree: TokenTree, predictors_P: torch.Tensor) -> torch.Tensor:
        """Hidden states of the predictors in front of the final norm, [P, D]."""
        if self._given is not None and self._given[0] is tree and torch.equal(self._given[1], predictors_P):
            return self._given[2]
        layers = self.layers()
        first = 0
        roots: Sequence[KeysAndValues | None] = [None] * len(layers)
        if self._root is not None and self._root.is_root_of(tree):
            first, roots = len(self._root), self._root.layers
        plan = AttentionPlan.from_tree(tree, first_query=first)
        hidden_QD, shared = self.embed(tree.tokens_T[first:], tree.positions_T[first:], plan)
        for layer, root in zip(layers[:-1], roots, strict=False):
            hidden_QD = run_layer(hidden_QD, layer, shared, root=root)
        return run_layer(hidden_QD, layers[-1], shared, rows_P=predictors_P - first, root=roots[-1])

    def layers(self) -> tuple[LayerWeights, ...]:
        """The weights as they are now."""
        try:
            return read_layers(self._model)
        except UnfusableError as error:
            raise ModelError(f"the model has changed since its scorer was made: {error}. Make a new one.") from error

    def embed(
        self,
        tokens_Q: torch.Tensor,
        positions_Q: torch.Tensor,
        plan: AttentionPlan,
        *,
        bounds_Q: tuple[int, ...] | None = None,
        bounds_P: tuple[int, ...] | None = None,
    ) -> tuple[torch.Tensor, LayerInput]:
        """Embedded tokens, and what all layers share; for the bounds see `LayerInput`."""
        hidden_QD = self._base.get_input_embeddings()(tokens_Q)
        cos_1QK, sin_1QK = self._base.base_model.rotary_emb(hidden_QD, positions_Q[None])
        half = cos_1QK.shape[-1] // 2
        cos_Q1J, sin_Q1J = (t[0, :, None, :half].contiguous() for t in (cos_1QK, sin_1QK))
        return hidden_QD, LayerInput(plan, cos_Q1J, sin_Q1J, bounds_Q, bounds_P)

    def linear_head(self) -> FrozenHead:
        """The head of the base as it is now."""
        module = self._base.get_output_embeddings()
        if self._head is None or self._head.weight_VD.data_ptr() != module.weight.data_ptr():
            self._head = FrozenHead(module.weight, module.bias)
        return self._head


def _rms_norm(x_PD: torch.Tensor, norm: NormWeights) -> torch.Tensor:
    out: torch.Tensor = _RmsNorm.apply(x_PD, norm)  # type: ignore[no-untyped-call]
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_PD: torch.Tensor, norm: NormWeights) -> torch.Tensor:
        rstd_P1 = rms_scale(x_PD, norm)
        ctx.save_for_backward(x_PD, rstd_P1)
        ctx.norm = norm
        return rms_norm(x_PD, rstd_P1, norm, out=torch.empty_like(x_PD))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_PD: torch.Tensor) -> tuple[torch.Tensor, None]:
        x_PD, rstd_P1 = ctx.saved_tensors
        return rms_norm_backward(grad_PD.clone(), x_PD, rstd_P1, ctx.norm, into=torch.zeros_like(x_PD)), None
