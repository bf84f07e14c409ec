"""One decoder layer of the Llama family as a single autograd function with a hand-written backward.

Saved for the backward are the layer's input, what attention saves, its output, the residual between the halves, gate,
up, and thin LoRA products; norms, activation and its product are computed again.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from loratory.tree.attention_cpu import attention_backward, attention_forward
from loratory.tree.fused.attention_half import AttentionHalf, HeadsState, LayerInput
from loratory.tree.fused.mlp_half import MlpHalf
from loratory.tree.fused.weights import LayerWeights

KeysAndValues = tuple[torch.Tensor, torch.Tensor]
"""Rotated keys and values of some tokens in one layer, [R, G, K] each."""


def run_layer(
    x_QD: torch.Tensor,
    weights: LayerWeights,
    shared: LayerInput,
    *,
    rows_P: torch.Tensor | None = None,
    root: KeysAndValues | None = None,
) -> torch.Tensor:
    """Apply a decoder layer.

    Args:
        x_QD: Hidden states of the plan's queries, i.e. of the flat tree without its root if that was computed before.
        weights: The layer's weights.
        shared: Plan and rotary tables of the tree.
        rows_P: Compute the output of these queries only, as the last layer may: the others give keys and values.
        root: Keys and values of the tokens before the first query.

    Returns:
        Hidden states behind the layer, [Q, D] or [P, D]; differentiable once, in x, the root and the LoRA matrices.
    """
    return _apply(x_QD, weights, shared, rows_P, root)[0]


def run_root_layer(
    x_RD: torch.Tensor, weights: LayerWeights, shared: LayerInput, *, is_last: bool
) -> tuple[torch.Tensor, KeysAndValues]:
    """Apply a decoder layer to a root; its keys and values are results too, differentiable like the hidden states.

    In the last layer nothing but keys and values is needed; the hidden states are [0, D] then.
    """
    rows_P = torch.zeros(0, dtype=torch.int64) if is_last else None
    out, k, v = _apply(x_RD, weights, shared, rows_P, None, shows_keys=True)
    return out, (k, v)


def _apply(
    x_QD: torch.Tensor,
    weights: LayerWeights,
    shared: LayerInput,
    rows_P: torch.Tensor | None,
    root: KeysAndValues | None,
    *,
    shows_keys: bool = False,
) -> tuple[torch.Tensor, ...]:
    inputs = (x_QD, *(root or (None, None)), *weights.parameters())
    keeps = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    options = _Options(weights, shared, rows_P, keeps=keeps, shows_keys=shows_keys)
    out: tuple[torch.Tensor, ...] = _Layer.apply(options, *inputs)  # type: ignore[no-untyped-call]
    return out


@dataclass(frozen=True, slots=True, eq=False)
class _Options:
    """What the layer function takes besides the tensors it differentiates."""

    weights: LayerWeights
    shared: LayerInput
    rows_P: torch.Tensor | None
    keeps: bool
    shows_keys: bool

    @property
    def bounds(self) -> tuple[int, ...] | None:
        """Of the rows behind attention."""
        return self.shared.bounds_Q if self.rows_P is None else self.shared.bounds_P


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        options: _Options,
        x_QD: torch.Tensor,
        root_k: torch.Tensor | None,
        root_v: torch.Tensor | None,
        *parameters: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        weights, plan = options.weights, options.shared.plan
        attention = AttentionHalf(weights, options.shared, bounds=options.bounds)
        heads, state = attention.heads(x_QD, None if root_k is None or root_v is None else (root_k, root_v))
        mixed, saved_attention = attention_forward(heads.q, heads.k, heads.v, plan, scaling=weights.scaling)
        mixed = mixed.flatten(1)
        rows = x_QD
        if options.rows_P is not None:
            rows, mixed = x_QD[options.rows_P], mixed[options.rows_P]
        middle, u_o = attention.output(rows, mixed)
        out, saved_mlp = MlpHalf(weights, bounds=options.bounds).forward(middle, keeps=options.keeps)
        if options.keeps:
            own = (x_QD, mixed, middle, u_o, state.u_QR, state.q_raw, state.k_raw)
            ctx.save_for_backward(*own, *saved_mlp, *saved_attention)
            ctx.options = options
            ctx.set_materialize_grads(False)
        if options.shows_keys:
            return out, heads.k[:-1].clone(), heads.v[:-1].clone()
        return (out,)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: torch.Tensor | None, *grad_keys: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_QD, mixed, middle, u_o, *others = ctx.saved_tensors
        state, saved_mlp, saved_attention = HeadsState(*others[:3]), others[3:7], others[7:]
        weights, shared, rows_P = ctx.options.weights, ctx.options.shared, ctx.options.rows_P
        attention = AttentionHalf(weights, shared, bounds=ctx.options.bounds)
        grad_out = torch.zeros_like(middle) if grad_out is None else grad_out.contiguous()
        grad_middle, mlp_grads = MlpHalf(weights, bounds=ctx.options.bounds).backward(grad_out, middle, saved_mlp)
        grad_mixed, o_grads = attention.output_backward(grad_middle, mixed, u_o, rows_P)
        grad_heads = grad_mixed.view(-1, weights.num_heads, weights.head_width)
        grad_q, grad_k, grad_v = attention_backward(grad_heads, saved_attention, shared.plan, scaling=weights.scaling)
        for total, grad in zip((grad_k, grad_v), grad_keys, strict=False):
            if grad is not None:
                total.add_(grad)
        grad_x = None
        if ctx.needs_input_grad[1]:
            grad_x = grad_middle
            if rows_P is not None:
                grad_x = torch.zeros_like(x_QD).index_copy_(0, rows_P, grad_middle)
        first = shared.plan.first_query
        qkv_grads = attention.heads_backward((grad_q, grad_k[first:], grad_v[first:]), x_QD, state, into=grad_x)
        root_grads = (grad_k[:first], grad_v[:first]) if ctx.needs_input_grad[2] else (None, None)
        return (None, grad_x, *root_grads, *qkv_grads, *o_grads, *mlp_grads)
