"""Pad an uneven model with zeros to a stock one, which tools that know only config.json can open.

Exact by algebra: a query head without output columns, a value head of zeros and a feed-forward channel with
`act(0) * 0` add nothing. Where no number of heads divides the hidden size, the residual stream is widened with zeros,
and the norms' scales and epsilon make up for the larger width in their mean.
"""

import math
from typing import NamedTuple, cast

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

from loratory.errors import IntegrityError, ModelError
from loratory.model.shapes import LayerShape, ModelShapes
from loratory.model.uneven import config_for, containing_heads, shapes_of

PROBE_TOKENS = 64
# Largest difference of logits relative to their size: float32 sums in another order, nothing else.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}


class _Target(NamedTuple):
    """Widths of the stock model."""

    hidden_size: int
    key_value_heads: int
    groups: int
    ffn_width: int
    head_dim: int


def pad_to_stock(model: PreTrainedModel) -> PreTrainedModel:
    """Return a stock model with the logits of an uneven one; as large as the widest layer everywhere.

    Args:
        model: A model of a family in `UNEVEN_FAMILIES`, without adapter layers; left as it is.

    Raises:
        ModelError: The family is not supported, or its norms cannot make up for a wider residual stream.
        IntegrityError: The layers contradict each other.
    """
    shapes = shapes_of(model)
    target = _target(shapes, model.config.model_type)
    config = config_for(model.config, shapes)
    heads = target.key_value_heads * target.groups
    values = config.to_dict() | {
        "hidden_size": target.hidden_size,
        "num_attention_heads": heads,
        "num_key_value_heads": target.key_value_heads,
        "intermediate_size": target.ffn_width,
    }
    is_widened = target.hidden_size != shapes.hidden_size
    if is_widened:
        values["rms_norm_eps"] = config.rms_norm_eps * shapes.hidden_size / target.hidden_size
    padded_config = type(config).from_dict(values)
    padded_config.tie_word_embeddings = model.config.tie_word_embeddings
    stock = MODEL_FOR_CAUSAL_LM_MAPPING[type(padded_config)](padded_config).to(model.device, model.dtype).eval()
    stock.generation_config = model.generation_config
    scale = math.sqrt(shapes.hidden_size / target.hidden_size)
    own = dict(model.state_dict())
    with torch.no_grad():
        for name, padded in stock.state_dict().items():
            layer = shapes.layers[int(name.split(".")[2])] if name.startswith("model.layers.") else None
            value = own[name]
            if is_widened and name.endswith("norm.weight") and value.shape == (shapes.hidden_size,):
                value = value * scale
            padded.copy_(_pad(name, value, padded.shape, layer, target))
    return cast(PreTrainedModel, stock)


def check_padding(model: PreTrainedModel, padded: PreTrainedModel) -> float:
    """Compare logits on a fixed prompt; return the largest absolute difference.

    Raises:
        IntegrityError: It is larger than rounding explains.
    """
    num_tokens = min(PROBE_TOKENS, int(model.config.max_position_embeddings))
    vocab_size = model.get_input_embeddings().weight.shape[0]
    tokens_T = (torch.arange(num_tokens, device=model.device) * 7919 + 3) % vocab_size
    with torch.no_grad():
        wanted = model(tokens_T[None]).logits
        found = padded(tokens_T[None]).logits
    difference = float((wanted - found).abs().max())
    size = max(1.0, float(wanted.abs().max()))
    if not difference <= TOLERANCE[model.dtype] * size:
        raise IntegrityError(
            f"the padded model answers otherwise: logits differ by {difference:.3g} where they reach {size:.3g}; "
            "nothing was written"
        )
    return difference


def _target(shapes: ModelShapes, model_type: str) -> _Target:
    ffn_width = max(layer.ffn_width for layer in shapes.layers)
    heads = containing_heads(shapes)
    if heads is not None:
        return _Target(shapes.hidden_size, *heads, ffn_width, shapes.head_dim)
    key_value_heads = max(layer.key_value_heads for layer in shapes.layers)
    groups = max(layer.groups for layer in shapes.layers)
    if model_type != "llama":
        raise ModelError(
            f"no number of heads of at least {key_value_heads} x {groups} divides the hidden size "
            f"{shapes.hidden_size}, and a {model_type} model cannot be widened; keep the uneven format"
        )
    step = key_value_heads * groups
    return _Target(-(-shapes.hidden_size // step) * step, key_value_heads, groups, ffn_width, shapes.head_dim)


def _pad(name: str, value: torch.Tensor, wanted: torch.Size, layer: LayerShape | None, target: _Target) -> torch.Tensor:
    """Zeros of shape `wanted` with `value` in their place; query heads stay with their key and value head."""
    if value.shape == wanted:
        return value
    if layer is not None and ".q_proj." in name:
        own = value.reshape(layer.key_value_heads, layer.groups, target.head_dim, -1)
        wide = value.new_zeros(target.key_value_heads, target.groups, target.head_dim, wanted[1:].numel())
    elif layer is not None and name.endswith(".o_proj.weight"):
        own = value.reshape(-1, layer.key_value_heads, layer.groups, target.head_dim)
        wide = value.new_zeros(wanted[0], target.key_value_heads, target.groups, target.head_dim)
    else:
        own, wide = value, value.new_zeros(wanted)
    wide[tuple(slice(size) for size in own.shape)] = own
    return wide.reshape(wanted)
