"""The settings of a pickled model's config that are taken over, each checked; the rest is left behind.

Widths are not among them (shapes tell those), and nothing that chooses code is.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from loratory.errors import IntegrityError
from loratory.model.pickled import PickledModel

ACTIVATIONS = ("silu", "swish", "gelu", "gelu_pytorch_tanh", "relu")
MAX_CONTEXT = 1 << 24
MAX_LAYERS = 4096
# Half precision models keep their rotary frequencies in half precision, too.
ROPE_TOLERANCE = 5e-3


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_CONTEXT


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 < value <= 1e12


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _is_truth(value: Any) -> bool:
    return type(value) is bool


def _is_rope(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(inner, str | bool | int | float)
        or (isinstance(inner, list) and all(type(item) in (int, float) for item in inner))
        for inner in value.values()
    )


def _is_kinds(value: Any) -> bool:
    allowed = ("full_attention", "sliding_attention")
    return isinstance(value, list) and 0 < len(value) <= MAX_LAYERS and all(item in allowed for item in value)


CHECKS: dict[str, Callable[[Any], bool]] = {
    "max_position_embeddings": _is_count,
    "sliding_window": _is_count,
    "max_window_layers": _is_count,
    "rms_norm_eps": _is_share,
    "rope_theta": _is_positive,
    "attention_dropout": _is_share,
    "initializer_range": _is_share,
    "attention_bias": _is_truth,
    "mlp_bias": _is_truth,
    "use_sliding_window": _is_truth,
    "hidden_act": lambda value: value in ACTIVATIONS,
    "rope_scaling": _is_rope,
    "rope_parameters": _is_rope,
    "layer_types": _is_kinds,
}
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def plain_values(found: PickledModel, *, vocab_size: int) -> dict[str, Any]:
    """The settings to build a config from.

    Raises:
        IntegrityError: A setting is there but impossible.
    """
    values: dict[str, Any] = {}
    for key, is_valid in CHECKS.items():
        value = found.config.get(key)
        if value is None:
            continue
        if not is_valid(value):
            raise IntegrityError(f"its config has {key} = {str(value)[:80]!r}, which is not possible")
        values[key] = value
    for key in TOKENS:
        value = found.config.get(key)
        several = value if isinstance(value, list) else [value]
        # Older LLaMA configs name tokens that do not exist, such as a padding token of -1.
        if value is not None and all(type(item) is int and 0 <= item < vocab_size for item in several):
            values[key] = value
        else:
            values[key] = None
    epsilon = found.attributes.get("model.norm", {})
    epsilon = epsilon.get("variance_epsilon", epsilon.get("eps"))
    if isinstance(epsilon, float) and 0 < epsilon < 1:
        values["rms_norm_eps"] = epsilon
    return values


def check_rope(config: PreTrainedConfig, tensors: Mapping[str, torch.Tensor], head_dim: int) -> None:
    """Compare rotary frequencies that lie in the file with those that the config gives.

    Raises:
        IntegrityError: They differ, so the model would see other positions than it was trained with.
    """
    kind = (config.rope_parameters or {}).get("rope_type", "default")
    stored = {key: value.float().flatten() for key, value in tensors.items() if key.endswith("inv_freq")}
    if not stored or kind == "dynamic":
        return
    expected = LlamaRotaryEmbedding(config).inv_freq
    for key, value in stored.items():
        if value.shape != expected.shape or not torch.allclose(value, expected, rtol=ROPE_TOLERANCE, atol=1e-7):
            raise IntegrityError(
                f"{key}: the rotary frequencies in the file are not those of its config (rope {kind}, head width "
                f"{head_dim}); the model would place tokens elsewhere than it learned to"
            )
