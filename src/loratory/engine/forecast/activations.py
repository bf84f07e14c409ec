"""What one token keeps in memory until the backward pass, by path.

The fused layers' list is our own and counted from the shapes. What the model's own layers keep is asked of autograd: a
forward pass without data (meta device) tells every tensor that it would save, whatever the family or adapter.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.func import functional_call
from transformers import PreTrainedModel

from loratory.engine.forecast.model_size import ModelSize, activation_itemsize
from loratory.tree.registry import IMPLEMENTATION

_TOKENS = 16
# Measured with PEFT on 135M shapes: 1.4 MiB per token without logits, where the fused layers save 0.66.
_PLAIN_LAYERS_FACTOR = 2.1


@dataclass(frozen=True, slots=True)
class KeptPerToken:
    """Bytes per token.

    Attributes:
        kept_bytes: Kept for the backward pass by all layers.
        last_rows_bytes: The part of these that the last layer keeps of predictors only.
        moment_bytes: Alive for a moment in the backward pass of one layer.
        pass_bytes: Kept by a pass whatever its tokens, such as updated weights that an adapter computes with.
    """

    kept_bytes: float
    last_rows_bytes: float
    moment_bytes: float
    pass_bytes: float = 0.0


def kept_per_token(
    base: PreTrainedModel, size: ModelSize, *, path: str, gradient_checkpointing: bool, is_mixed: bool
) -> KeptPerToken:
    """Count for one path.

    Args:
        base: The transformers model in training, with an adapter's layers inside it; not changed.
        size: Its sizes.
        path: The scorer's.
        gradient_checkpointing: Only the layers' inputs are kept, and one layer's inside.
        is_mixed: Autocast.
    """
    itemsize = activation_itemsize(size, is_mixed=is_mixed)
    outputs = sum(linear.outputs for linear in size.linears)
    floats = max(outputs + size.num_layers * size.width, 10 * size.num_layers * size.width)
    largest = max((linear.outputs for linear in size.linears), default=size.width)
    if path == "fused":
        thin = sum(linear.adapter / (linear.inputs + linear.outputs) for linear in size.linears)
        last = [linear for linear in size.linears if linear.layer == size.num_layers - 1 and not linear.feeds_keys]
        rows = sum(linear.outputs for linear in last)
        moment = 3 * size.num_query_floats + 4 * size.width
        return KeptPerToken((floats + thin) * itemsize, rows * itemsize, moment * itemsize)
    layer_floats = _PLAIN_LAYERS_FACTOR * floats / max(1, size.num_layers)
    if gradient_checkpointing:
        return KeptPerToken((layer_floats + size.num_layers * size.width) * itemsize, 0.0, 3.0 * largest * itemsize)
    traced = None if is_mixed else _traced_bytes(base)
    kept, constant = (_PLAIN_LAYERS_FACTOR * floats * itemsize, 0.0) if traced is None else traced
    return KeptPerToken(kept, 0.0, 4.0 * largest * itemsize, constant)


def _traced_bytes(base: PreTrainedModel) -> tuple[float, float] | None:
    """Bytes that the body saves per token, and besides; None where the model cannot run without data."""
    few, many = (_saved_bytes(base, num_tokens) for num_tokens in (_TOKENS, 2 * _TOKENS))
    if few is None or many is None or many <= few:
        return None
    per_token = (many - few) / _TOKENS
    return per_token, max(0.0, few - per_token * _TOKENS)


def _saved_bytes(base: PreTrainedModel, num_tokens: int) -> int | None:
    """Bytes that the body's autograd graph saves for one row of tokens."""
    body = base.base_model
    tensors = {
        name: torch.empty_like(t, device="meta").requires_grad_(t.requires_grad)
        for name, t in (*body.named_parameters(remove_duplicate=False), *body.named_buffers(remove_duplicate=False))
    }
    own = {t.untyped_storage()._cdata for t in tensors.values()}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage
        return t

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            output = functional_call(body, tensors, kwargs=_arguments(base, num_tokens))
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, IndexError, KeyError):
        return None  # families that look at values, and packed weights, have the estimate from shapes
    del output
    return sum(storage.nbytes() for storage in saved.values())


def _arguments(base: PreTrainedModel, num_tokens: int) -> dict[str, Any]:
    tokens = torch.zeros(1, num_tokens, dtype=torch.int64, device="meta")
    arguments: dict[str, Any] = {"input_ids": tokens, "use_cache": False}
    if base.config._attn_implementation == IMPLEMENTATION:
        mask = torch.empty(1, 1, 0, 0, dtype=torch.bool, device="meta")
        arguments |= {"position_ids": tokens, "attention_mask": mask, "tree_attention": _attend}
    else:
        mask = torch.empty(1, 1, num_tokens, num_tokens, dtype=torch.bool, device="meta")
        arguments |= {"attention_mask": mask}
    return arguments


def _attend(q_THK: torch.Tensor, k_TGK: torch.Tensor, v_TGK: torch.Tensor, *, scaling: float | None) -> torch.Tensor:
    """Stands for the tree's attention, which keeps copies of queries, keys and values."""
    out: torch.Tensor = _Kept.apply(q_THK, k_TGK, v_TGK)  # type: ignore[no-untyped-call]
    return out


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(q.clone(), k.clone(), v.clone())
        return torch.empty_like(q)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, None, None]:
        return None, None, None
