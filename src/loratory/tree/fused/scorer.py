"""The fused scorer: a tree through the Llama family's layers, each one autograd function, and the label-only head."""

from typing import Any

import torch
from peft import PeftModel
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from loratory.errors import ModelError
from loratory.tree.attention_plan import AttentionPlan
from loratory.tree.eligibility import base_of, eligibility
from loratory.tree.fused.elementwise import rms_norm, rms_norm_backward, rms_scale
from loratory.tree.fused.layer import LayerInput, run_layer
from loratory.tree.fused.weights import NormWeights, UnfusableError, final_norm, fused_refusal, read_layers
from loratory.tree.head import FrozenHead
from loratory.tree.scorer import Scorer, WeightedNll
from loratory.tree.tree import TokenTree
from loratory.tree.tree_scorer import TreeScorer


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

    def _other(self, tree: TokenTree) -> Scorer | None:
        """Who scores what the fused layers cannot."""
        is_too_long = self._window is not None and tree.num_tokens > 0 and int(tree.positions_T.max()) >= self._window
        if is_too_long or torch.is_autocast_enabled("cpu"):
            return TreeScorer(self._model, reason="autocast or a path longer than the attention window")
        return None

    def _score(self, tree: TokenTree) -> tuple[torch.Tensor, torch.Tensor]:
        if len(tree.targets_N) == 0:
            return torch.zeros(0, dtype=self._base.dtype), torch.zeros(0, dtype=torch.bool)
        predictors_P, row_N = torch.unique(tree.predictors_N, return_inverse=True)
        hidden_PD = self._hidden(tree, predictors_P)
        return self._linear_head()(_rms_norm(hidden_PD, final_norm(self._model)), row_N, tree.targets_N)

    def _hidden(self, tree: TokenTree, predictors_P: torch.Tensor) -> torch.Tensor:
        """Hidden states of the predictors in front of the final norm, [P, D]."""
        try:
            layers = read_layers(self._model)
        except UnfusableError as error:
            raise ModelError(f"the model has changed since its scorer was made: {error}. Make a new one.") from error
        hidden_TD = self._base.get_input_embeddings()(tree.tokens_T)
        cos_1TK, sin_1TK = self._base.base_model.rotary_emb(hidden_TD, tree.positions_T[None])
        half = cos_1TK.shape[-1] // 2
        shared = LayerInput(
            plan=AttentionPlan.from_tree(tree),
            cos_T1J=cos_1TK[0, :, None, :half].contiguous(),
            sin_T1J=sin_1TK[0, :, None, :half].contiguous(),
        )
        for layer in layers[:-1]:
            hidden_TD = run_layer(hidden_TD, layer, shared)
        return run_layer(hidden_TD, layers[-1], shared, rows_P=predictors_P)

    def _linear_head(self) -> FrozenHead:
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
