"""What one token keeps in memory until the backward pass, by path.

The fused layers' list is our own and counted from the shapes. What the model's own layers keep is asked of autograd: a
forward pass without data (meta device) tells every tensor that stays, whatever the family or adapter; `heap` tells
how much room the C library takes for them.
"""

from dataclasses import dataclass

from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from loratory.engine.forecast.model_size import ModelSize, activation_itemsize
from loratory.engine.forecast.trace import trace

# Measured with PEFT on 135M shapes: 1.4 MiB per token without logits, where the fused layers save 0.66.
_PLAIN_LAYERS_FACTOR = 2.1
# The heap around tensors, where a pass cannot be traced; see `heap`.
_HEAP_FACTOR = 1.5
# A layer that will be computed again frees what it made, but not the holes between: measured on three models of 6, 10
# and 30 layers, the heap grows by two layers' worth and 0.4 of each.
_RECOMPUTED_LAYERS, _RECOMPUTED_SHARE = 2.0, 0.4


@dataclass(frozen=True, slots=True)
class KeptPerToken:
    """Bytes per token.

    Attributes:
        kept_bytes: Kept for the backward pass by all layers.
        last_rows_bytes: The part of these that the last layer keeps of predictors only.
        moment_bytes: Alive for a moment in the backward pass of one layer.
        read_bytes: Tensors that the backward pass reads; with gradient checkpointing those that are made again.
        pass_bytes: Kept by a pass whatever its tokens, such as updated weights that an adapter computes with.
    """

    kept_bytes: float
    last_rows_bytes: float
    moment_bytes: float
    read_bytes: float
    pass_bytes: float = 0.0


def kept_per_token(
    base: PreTrainedModel, size: ModelSize, *, path: str, gradient_checkpointing: bool, is_mixed: bool, on_cpu: bool
) -> KeptPerToken:
    """Count for one path.

    Args:
        base: The transformers model in training, with an adapter's layers inside it; not changed.
        size: Its sizes.
        path: The scorer's.
        gradient_checkpointing: Only the layers' inputs are kept, and one layer's inside.
        is_mixed: Autocast.
        on_cpu: Count the heap's holes too; GPU memory has next to none.
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
        own = (floats + thin) * itemsize
        return KeptPerToken(own, rows * itemsize, moment * itemsize, own)
    traced = None if is_mixed else trace(base)
    if traced is None:
        read = _PLAIN_LAYERS_FACTOR * floats * itemsize
        kept, constant = read * (_HEAP_FACTOR if on_cpu else 1.0), 0.0
    else:
        line = traced.heap if on_cpu else traced.tensors
        read, kept, constant = traced.tensors.per_token, line.per_token, line.besides
    if on_cpu:
        constant += _weight_holes(base, size)
    if gradient_checkpointing:
        layers = _RECOMPUTED_LAYERS + _RECOMPUTED_SHARE * size.num_layers if on_cpu else 1.0
        held = kept * min(1.0, layers / max(1, size.num_layers))
        return KeptPerToken(held + size.num_layers * size.width * itemsize, 0.0, 3.0 * largest * itemsize, read)
    return KeptPerToken(kept, 0.0, 4.0 * largest * itemsize, read, constant)


def _weight_holes(base: PreTrainedModel, size: ModelSize) -> int:
    """Room that matrices as large as the weights leave between what layers keep; they live for a moment in each layer.

    Quantised weights are unpacked, and DoRA norms the updated weight. Measured on three models: as much as all of them.
    """
    layers = [module for module in base.modules() if isinstance(module, LoraLayer)]
    makes_weights = size.quantised > 0 or any(layer.lora_variant for layer in layers)
    return size.itemsize * sum(each.inputs * each.outputs for each in size.linears) if makes_weights else 0
