"""The first half of a decoder layer: norm, q/k/v with rotary embedding, output projection, residual; by hand."""

from dataclasses import dataclass

import torch

from loratory.tree.attention_plan import AttentionPlan
from loratory.tree.fused.chunks import chunks
from loratory.tree.fused.elementwise import rms_norm, rms_norm_backward, rms_scale, rotate
from loratory.tree.fused.several import linear_group
from loratory.tree.fused.weights import LayerWeights, NormWeights


@dataclass(frozen=True, slots=True, eq=False)
class LayerInput:
    """What all layers share for one tree.

    Attributes:
        plan: Attention plan; its Q queries are the tokens that the layers compute.
        cos_Q1J: Half of the rotary table (both halves are equal), [Q, 1, K / 2].
        sin_Q1J: The same of the sine.
        bounds_Q: Where the queries of each of several models begin, and where the last one's end; None for one model.
        bounds_P: The same of the rows that the last layer computes.
    """

    plan: AttentionPlan
    cos_Q1J: torch.Tensor
    sin_Q1J: torch.Tensor
    bounds_Q: tuple[int, ...] | None = None
    bounds_P: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """q of the Q queries, k and v of all T tokens, each with a zero row behind."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class HeadsState:
    """What the backward of the heads needs.

    Attributes:
        u_QR: Thin LoRA products.
        q_raw: The queries' unnormalised heads in families with head norms, else empty.
        k_raw: The same of the keys.
    """

    u_QR: torch.Tensor
    q_raw: torch.Tensor
    k_raw: torch.Tensor


class AttentionHalf:
    """Norm, q/k/v, rotary embedding; and the output projection with the residual."""

    def __init__(self, weights: LayerWeights, shared: LayerInput, *, bounds: tuple[int, ...] | None = None) -> None:
        self._weights = weights
        self._shared = shared
        self._qkv = linear_group(shared.bounds_Q, weights.q, weights.k, weights.v)
        self._o = linear_group(bounds, weights.o)

    def heads(self, x_QD: torch.Tensor, root: tuple[torch.Tensor, torch.Tensor] | None) -> tuple[Heads, HeadsState]:
        """Queries, keys and values; `root` holds keys and values of the tokens before the first query, if any."""
        weights, width, plan = self._weights, self._weights.head_width, self._shared.plan
        first = plan.first_query
        q = x_QD.new_empty(plan.num_queries + 1, weights.num_heads, width)
        k = x_QD.new_empty(plan.num_tokens + 1, weights.num_key_heads, width)
        v = torch.empty_like(k)
        for t in (q, k, v):
            t[-1].zero_()
        if root is not None:
            for t, before in zip((k, v), root, strict=True):
                t[:first].copy_(before)
        own_k, own_v = k[first:-1], v[first:-1]
        u_QR = x_QD.new_empty(plan.num_queries, self._qkv.total_rank)
        raws = [
            torch.empty_like(t) if norm is not None else None
            for t, norm in ((q[:-1], weights.q_norm), (own_k, weights.k_norm))
        ]
        for chunk in chunks(plan.num_queries):
            x = x_QD[chunk]
            h = rms_norm(x, rms_scale(x, weights.input_norm), weights.input_norm, out=torch.empty_like(x))
            raw_q, raw_k = (
                torch.empty_like(t[chunk]) if raw is None else raw[chunk]
                for t, raw in zip((q, own_k), raws, strict=True)
            )
            self._qkv.forward(h, u_QR[chunk], [t.flatten(1) for t in (raw_q, raw_k, own_v[chunk])], start=chunk.start)
            for raw, norm, t in ((raw_q, weights.q_norm, q), (raw_k, weights.k_norm, own_k)):
                self._rotated(raw, norm, chunk, out=t[chunk])
        return Heads(q, k, v), HeadsState(u_QR, *(x_QD.new_empty(0) if raw is None else raw for raw in raws))

    def _rotated(self, raw: torch.Tensor, norm: NormWeights | None, chunk: slice, *, out: torch.Tensor) -> None:
        if norm is not None:
            raw = rms_norm(raw, rms_scale(raw, norm), norm, out=torch.empty_like(raw))
        rotate(raw, self._shared.cos_Q1J[chunk], self._shared.sin_Q1J[chunk], out=out)

    def heads_backward(
        self,
        grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        x_QD: torch.Tensor,
        state: HeadsState,
        *,
        into: torch.Tensor | None,
    ) -> list[torch.Tensor]:
        """LoRA gradients of q, k, v from those of the queries' heads.

        Adds the gradient of x to `into` unless that is None.
        """
        weights, lora = self._weights, self._qkv.new_gradient()
        for chunk in chunks(x_QD.shape[0]):
            x = x_QD[chunk]
            rstd = rms_scale(x, weights.input_norm)
            grad_q = self._rotated_backward(grads[0][chunk], state.q_raw, weights.q_norm, chunk)
            grad_k = self._rotated_backward(grads[1][chunk], state.k_raw, weights.k_norm, chunk)
            flat = [grad_q.flatten(1), grad_k.flatten(1), grads[2][chunk].flatten(1)]
            v_QR = self._qkv.backward(flat, x, state.u_QR[chunk], lora, scale_T1=rstd, start=chunk.start)
            if into is not None:
                grad_h = self._qkv.input_grad(flat, v_QR, torch.empty_like(x), start=chunk.start)
                rms_norm_backward(grad_h, x, rstd, weights.input_norm, into=into[chunk])
        return lora.result(scale_I=weights.input_norm.scale_D)

    def _rotated_backward(
        self, grad: torch.Tensor, raw: torch.Tensor, norm: NormWeights | None, chunk: slice
    ) -> torch.Tensor:
        cos, sin = self._shared.cos_Q1J[chunk], self._shared.sin_Q1J[chunk]
        out = rotate(grad, cos, sin, out=torch.empty_like(grad), inverse=True)
        if norm is None:
            return out
        raw = raw[chunk]
        return rms_norm_backward(out, raw, rms_scale(raw, norm), norm, into=torch.zeros_like(raw))

    def output(self, x_TD: torch.Tensor, mixed_TO: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x plus the projected attention output, and thin products."""
        u_TR = x_TD.new_empty(x_TD.shape[0], self._o.total_rank)
        out = torch.empty_like(x_TD)
        self._o.add_forward(mixed_TO, u_TR, x_TD, out)
        return out, u_TR

    def output_backward(
        self, grad_TD: torch.Tensor, mixed_TO: torch.Tensor, u_TR: torch.Tensor, rows_P: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Gradient of the attention output with a zero row behind, zero too where no row was asked; LoRA gradients."""
        lora = self._o.new_gradient()
        v_TR = self._o.backward([grad_TD], mixed_TO, u_TR, lora)
        num_queries, width = self._shared.plan.num_queries, mixed_TO.shape[1]
        if rows_P is None:
            grad = grad_TD.new_empty(num_queries + 1, width)
            grad[-1].zero_()
            self._o.input_grad([grad_TD], v_TR, grad[:-1])
        else:
            grad = grad_TD.new_zeros(num_queries + 1, width)
            grad.index_copy_(0, rows_P, self._o.input_grad([grad_TD], v_TR, torch.empty_like(mixed_TO)))
        return grad, lora.result()
