"""The second half of a decoder layer: norm, gated MLP, residual; forward and backward by hand."""

import torch

from loratory.tree.fused import chunks as chunking
from loratory.tree.fused.chunks import chunks
from loratory.tree.fused.elementwise import activate, activate_backward, rms_norm, rms_norm_backward, rms_scale
from loratory.tree.fused.several import linear_group
from loratory.tree.fused.weights import LayerWeights


class MlpHalf:
    """Norm, gate, up, activation, down, residual."""

    def __init__(self, weights: LayerWeights, *, bounds: tuple[int, ...] | None = None) -> None:
        self._norm = weights.post_norm
        self._activation = weights.activation
        self._gate_up = linear_group(bounds, weights.gate, weights.up)
        self._down = linear_group(bounds, weights.down)
        self._width = weights.gate.weight_OI.shape[0]

    def forward(self, x_TD: torch.Tensor, *, keeps: bool) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The layer's output; and gate, up and thin products if the backward will come."""
        num_tokens = x_TD.shape[0]
        kept = num_tokens if keeps else min(num_tokens, chunking.CHUNK_TOKENS)
        gate_TM, up_TM = x_TD.new_empty(kept, self._width), x_TD.new_empty(kept, self._width)
        u_TR = x_TD.new_empty(num_tokens, self._gate_up.total_rank)
        u_down = x_TD.new_empty(num_tokens, self._down.total_rank)
        out_TD = torch.empty_like(x_TD)
        for chunk in chunks(num_tokens):
            x = x_TD[chunk]
            h = rms_norm(x, rms_scale(x, self._norm), self._norm, out=torch.empty_like(x))
            place = chunk if keeps else slice(0, x.shape[0])
            gate, up = gate_TM[place], up_TM[place]
            self._gate_up.forward(h, u_TR[chunk], [gate, up], start=chunk.start)
            product = activate(gate, self._activation, out=torch.empty_like(gate)).mul_(up)
            self._down.add_forward(product, u_down[chunk], x, out_TD[chunk], start=chunk.start)
        return out_TD, (gate_TM, up_TM, u_TR, u_down)

    def backward(
        self, grad_TD: torch.Tensor, x_TD: torch.Tensor, saved: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Gradient of x (residual included) and LoRA gradients of gate, up, down."""
        gate_TM, up_TM, u_TR, u_down = saved
        lora, lora_down = self._gate_up.new_gradient(), self._down.new_gradient()
        out_TD = grad_TD.clone()
        for chunk in chunks(x_TD.shape[0]):
            x, grad, gate, up = x_TD[chunk], grad_TD[chunk], gate_TM[chunk], up_TM[chunk]
            activated = activate(gate, self._activation, out=torch.empty_like(gate))
            product = torch.mul(activated, up)
            v_down = self._down.backward([grad], product, u_down[chunk], lora_down, start=chunk.start)
            grad_product = self._down.input_grad([grad], v_down, torch.empty_like(gate), start=chunk.start)
            grad_up = activated.mul_(grad_product)
            grad_gate = activate_backward(grad_product.mul_(up), gate, self._activation, out=product)
            rstd = rms_scale(x, self._norm)
            v_TR = self._gate_up.backward([grad_gate, grad_up], x, u_TR[chunk], lora, scale_T1=rstd, start=chunk.start)
            grad_h = self._gate_up.input_grad([grad_gate, grad_up], v_TR, torch.empty_like(x), start=chunk.start)
            rms_norm_backward(grad_h, x, rstd, self._norm, into=out_TD[chunk])
        return out_TD, [*lora.result(scale_I=self._norm.scale_D), *lora_down.result()]
