"""One decoder layer of the Llama family as a single autograd function with a hand-written backward.

Saved for the backward are the layer's input, q, k and v behind the rotary embedding, the attention output, the
residual between the halves, gate, up, and thin LoRA products; norms, activation and its product are computed again.
Tokens are worked on in chunks, so that what lives only for a moment stays in the processor's cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from loratory.tree.attention_cpu import attention_backward, attention_forward
from loratory.tree.attention_plan import AttentionPlan
from loratory.tree.fused.elementwise import activate, activate_backward, rms_norm, rms_norm_backward, rms_scale, rotate
from loratory.tree.fused.linear import LinearGroup
from loratory.tree.fused.weights import LayerWeights, NormWeights

CHUNK_TOKENS = 512
"""Tokens per chunk: enough rows for GEMM at full speed, few enough that an MLP buffer (3 MB) stays in cache."""


@dataclass(frozen=True, slots=True, eq=False)
class LayerInput:
    """What all layers share for one tree.

    Attributes:
        plan: Attention plan.
        cos_T1J: Half of the rotary table (both halves are equal), [T, 1, K / 2].
        sin_T1J: The same of the sine.
    """

    plan: AttentionPlan
    cos_T1J: torch.Tensor
    sin_T1J: torch.Tensor


def run_layer(
    x_TD: torch.Tensor, weights: LayerWeights, shared: LayerInput, *, rows_P: torch.Tensor | None = None
) -> torch.Tensor:
    """Apply a decoder layer.

    Args:
        x_TD: Hidden states of the flat tree.
        weights: The layer's weights.
        shared: Plan and rotary tables of the tree.
        rows_P: Compute the output of these tokens only, as the last layer may: the others give keys and values.

    Returns:
        Hidden states behind the layer, [T, D] or [P, D]; differentiable once, in x and the LoRA matrices.
    """
    parameters = tuple(weights.parameters())
    keeps = torch.is_grad_enabled() and (x_TD.requires_grad or any(p.requires_grad for p in parameters))
    out: torch.Tensor = _Layer.apply(x_TD, weights, shared, rows_P, keeps, *parameters)  # type: ignore[no-untyped-call]
    return out


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: torch.Tensor,
        weights: LayerWeights,
        shared: LayerInput,
        rows_P: torch.Tensor | None,
        keeps: bool,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        attention = _AttentionHalf(weights, shared)
        mlp = _MlpHalf(weights)
        heads = attention.heads(x_TD)
        mixed_TQ = attention_forward(heads.q, heads.k, heads.v, shared.plan, scaling=weights.scaling).flatten(1)
        rows = x_TD
        if rows_P is not None:
            rows, mixed_TQ = x_TD[rows_P], mixed_TQ[rows_P]
        middle_TD, u_o = attention.output(rows, mixed_TQ)
        out_TD, saved_mlp = mlp.forward(middle_TD, keeps=keeps)
        if keeps:
            ctx.save_for_backward(x_TD, mixed_TQ, middle_TD, u_o, *saved_mlp, *heads.tensors())
            ctx.weights, ctx.shared, ctx.rows_P = weights, shared, rows_P
        return out_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_TD, mixed_TQ, middle_TD, u_o, *others = ctx.saved_tensors
        weights, shared, rows_P = ctx.weights, ctx.shared, ctx.rows_P
        saved_mlp, heads = others[:4], _Heads(*others[4:])
        attention = _AttentionHalf(weights, shared)
        grad_middle, mlp_grads = _MlpHalf(weights).backward(grad_TD.contiguous(), middle_TD, saved_mlp)
        grad_mixed, o_grads = attention.output_backward(grad_middle, mixed_TQ, u_o, rows_P)
        grad_heads = attention_backward(
            grad_mixed.view(heads.q.shape), heads.q, heads.k, heads.v, shared.plan, scaling=weights.scaling
        )
        needs_input = ctx.needs_input_grad[0]
        grad_x = None
        if needs_input:
            grad_x = grad_middle
            if rows_P is not None:
                grad_x = torch.zeros_like(x_TD).index_copy_(0, rows_P, grad_middle)
        qkv_grads = attention.heads_backward(grad_heads, x_TD, heads, into=grad_x)
        return (grad_x, None, None, None, None, *qkv_grads, *o_grads, *mlp_grads)


@dataclass(frozen=True, slots=True, eq=False)
class _Heads:
    """q [T + 1, H, K], k and v [T + 1, G, K] with a zero row behind, and what their backward needs.

    `q_raw`, `k_raw` are the unnormalised heads of families with head norms, else empty.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    u_TR: torch.Tensor
    q_raw: torch.Tensor
    k_raw: torch.Tensor

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.q, self.k, self.v, self.u_TR, self.q_raw, self.k_raw


class _AttentionHalf:
    """Norm, q/k/v, rotary embedding; and the output projection with the residual."""

    def __init__(self, weights: LayerWeights, shared: LayerInput) -> None:
        self._weights = weights
        self._shared = shared
        self._qkv = LinearGroup(weights.q, weights.k, weights.v)
        self._o = LinearGroup(weights.o)

    def heads(self, x_TD: torch.Tensor) -> _Heads:
        weights, width = self._weights, self._weights.head_width
        num_tokens = x_TD.shape[0]
        q = x_TD.new_empty(num_tokens + 1, weights.num_heads, width)
        k = x_TD.new_empty(num_tokens + 1, weights.num_key_heads, width)
        v = torch.empty_like(k)
        for t in (q, k, v):
            t[num_tokens].zero_()
        u_TR = x_TD.new_empty(num_tokens, self._qkv.total_rank)
        raws = [
            torch.empty_like(t[:-1]) if norm is not None else None
            for t, norm in ((q, weights.q_norm), (k, weights.k_norm))
        ]
        for chunk in _chunks(num_tokens):
            x = x_TD[chunk]
            h = rms_norm(x, rms_scale(x, weights.input_norm), weights.input_norm, out=torch.empty_like(x))
            raw_q, raw_k = (
                torch.empty_like(t[chunk]) if raw is None else raw[chunk] for t, raw in zip((q, k), raws, strict=True)
            )
            self._qkv.forward(h, u_TR[chunk], [t.flatten(1) for t in (raw_q, raw_k, v[chunk])])
            for raw, norm, t in ((raw_q, weights.q_norm, q), (raw_k, weights.k_norm, k)):
                self._rotated(raw, norm, chunk, out=t[chunk])
        return _Heads(q, k, v, u_TR, *(x_TD.new_empty(0) if raw is None else raw for raw in raws))

    def _rotated(self, raw: torch.Tensor, norm: NormWeights | None, chunk: slice, *, out: torch.Tensor) -> None:
        if norm is not None:
            raw = rms_norm(raw, rms_scale(raw, norm), norm, out=torch.empty_like(raw))
        rotate(raw, self._shared.cos_T1J[chunk], self._shared.sin_T1J[chunk], out=out)

    def heads_backward(
        self,
        grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        x_TD: torch.Tensor,
        heads: _Heads,
        *,
        into: torch.Tensor | None,
    ) -> list[torch.Tensor]:
        """LoRA gradients of q, k, v; adds the gradient of x to `into` unless that is None."""
        weights, lora = self._weights, self._qkv.new_gradient()
        for chunk in _chunks(x_TD.shape[0]):
            x = x_TD[chunk]
            rstd = rms_scale(x, weights.input_norm)
            grad_q = self._rotated_backward(grads[0][chunk], heads.q_raw, weights.q_norm, chunk)
            grad_k = self._rotated_backward(grads[1][chunk], heads.k_raw, weights.k_norm, chunk)
            flat = [grad_q.flatten(1), grad_k.flatten(1), grads[2][chunk].flatten(1)]
            v_TR = self._qkv.backward(flat, x, heads.u_TR[chunk], lora, scale_T1=rstd)
            if into is not None:
                grad_h = self._qkv.input_grad(flat, v_TR, torch.empty_like(x))
                rms_norm_backward(grad_h, x, rstd, weights.input_norm, into=into[chunk])
        return lora.result(scale_I=weights.input_norm.scale_D)

    def _rotated_backward(
        self, grad: torch.Tensor, raw: torch.Tensor, norm: NormWeights | None, chunk: slice
    ) -> torch.Tensor:
        cos, sin = self._shared.cos_T1J[chunk], self._shared.sin_T1J[chunk]
        out = rotate(grad, cos, sin, out=torch.empty_like(grad), inverse=True)
        if norm is None:
            return out
        raw = raw[chunk]
        return rms_norm_backward(out, raw, rms_scale(raw, norm), norm, into=torch.zeros_like(raw))

    def output(self, x_TD: torch.Tensor, mixed_TQ: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x plus the projected attention output, and thin products."""
        u_TR = x_TD.new_empty(x_TD.shape[0], self._o.total_rank)
        out = torch.empty_like(x_TD)
        self._o.add_forward(mixed_TQ, u_TR, x_TD, out)
        return out, u_TR

    def output_backward(
        self, grad_TD: torch.Tensor, mixed_TQ: torch.Tensor, u_TR: torch.Tensor, rows_P: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Gradient of the attention output with a zero row behind, zero too where no row was asked; LoRA gradients."""
        lora = self._o.new_gradient()
        v_TR = self._o.backward([grad_TD], mixed_TQ, u_TR, lora)
        num_tokens, width = self._shared.plan.num_tokens, mixed_TQ.shape[1]
        if rows_P is None:
            grad = grad_TD.new_empty(num_tokens + 1, width)
            grad[num_tokens].zero_()
            self._o.input_grad([grad_TD], v_TR, grad[:num_tokens])
        else:
            grad = grad_TD.new_zeros(num_tokens + 1, width)
            grad.index_copy_(0, rows_P, self._o.input_grad([grad_TD], v_TR, torch.empty_like(mixed_TQ)))
        return grad, lora.result()


class _MlpHalf:
    """Norm, gate, up, activation, down, residual."""

    def __init__(self, weights: LayerWeights) -> None:
        self._norm = weights.post_norm
        self._activation = weights.activation
        self._gate_up = LinearGroup(weights.gate, weights.up)
        self._down = LinearGroup(weights.down)
        self._width = weights.gate.weight_OI.shape[0]

    def forward(self, x_TD: torch.Tensor, *, keeps: bool) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The layer's output; and gate, up and thin products if the backward will come."""
        num_tokens = x_TD.shape[0]
        kept = num_tokens if keeps else min(num_tokens, CHUNK_TOKENS)
        gate_TM, up_TM = x_TD.new_empty(kept, self._width), x_TD.new_empty(kept, self._width)
        u_TR = x_TD.new_empty(num_tokens, self._gate_up.total_rank)
        u_down = x_TD.new_empty(num_tokens, self._down.total_rank)
        out_TD = torch.empty_like(x_TD)
        for chunk in _chunks(num_tokens):
            x = x_TD[chunk]
            h = rms_norm(x, rms_scale(x, self._norm), self._norm, out=torch.empty_like(x))
            place = chunk if keeps else slice(0, x.shape[0])
            gate, up = gate_TM[place], up_TM[place]
            self._gate_up.forward(h, u_TR[chunk], [gate, up])
            product = activate(gate, self._activation, out=torch.empty_like(gate)).mul_(up)
            self._down.add_forward(product, u_down[chunk], x, out_TD[chunk])
        return out_TD, (gate_TM, up_TM, u_TR, u_down)

    def backward(
        self, grad_TD: torch.Tensor, x_TD: torch.Tensor, saved: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Gradient of x (residual included) and LoRA gradients of gate, up, down."""
        gate_TM, up_TM, u_TR, u_down = saved
        lora, lora_down = self._gate_up.new_gradient(), self._down.new_gradient()
        out_TD = grad_TD.clone()
        for chunk in _chunks(x_TD.shape[0]):
            x, grad, gate, up = x_TD[chunk], grad_TD[chunk], gate_TM[chunk], up_TM[chunk]
            activated = activate(gate, self._activation, out=torch.empty_like(gate))
            product = torch.mul(activated, up)
            v_down = self._down.backward([grad], product, u_down[chunk], lora_down)
            grad_product = self._down.input_grad([grad], v_down, torch.empty_like(gate))
            grad_up = activated.mul_(grad_product)
            grad_gate = activate_backward(grad_product.mul_(up), gate, self._activation, out=product)
            rstd = rms_scale(x, self._norm)
            v_TR = self._gate_up.backward([grad_gate, grad_up], x, u_TR[chunk], lora, scale_T1=rstd)
            grad_h = self._gate_up.input_grad([grad_gate, grad_up], v_TR, torch.empty_like(x))
            rms_norm_backward(grad_h, x, rstd, self._norm, into=out_TD[chunk])
        return out_TD, [*lora.result(scale_I=self._norm.scale_D), *lora_down.result()]


def _chunks(num_tokens: int) -> Iterator[slice]:
    """Slices of nearly equal length, none longer than `CHUNK_TOKENS`."""
    count = -(-num_tokens // CHUNK_TOKENS)
    for index in range(count):
        yield slice(num_tokens * index // count, num_tokens * (index + 1) // count)
