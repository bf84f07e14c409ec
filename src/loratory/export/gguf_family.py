"""What each model family is called in GGUF, its hyper-parameters, and how its tensors lie there.

Families whose rope, activation or window llama.cpp computes otherwise than the model does are refused here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from loratory.errors import ModelError

Array = npt.NDArray[np.float32]
PERMUTED = ("attn_q.", "attn_k.")


@dataclass(frozen=True, slots=True)
class GgufFamily:
    """A family that can be written.

    Attributes:
        architecture: Its name in GGUF.
        activations: The `hidden_act` values that llama.cpp computes for it.
        has_permuted_heads: Whether rows of q and k are reordered from half-split to interleaved rotation.
        norm_offset: Added to every norm's scale: Gemma stores the scale minus 1.
        transposed: Tensors that the model keeps as [in, out].
        reader_fixes: What transformers' reader takes for granted, as key -> value of the configuration; it opens files
            of other models wrongly. None: it opens no file of the family.
    """

    architecture: str
    activations: tuple[str, ...]
    has_permuted_heads: bool = False
    norm_offset: float = 0.0
    transposed: tuple[str, ...] = ()
    reader_fixes: tuple[tuple[str, int], ...] | None = ()


_TANH_GELU = ("gelu_pytorch_tanh", "gelu_new")
FAMILIES: dict[str, GgufFamily] = {
    "llama": GgufFamily("llama", ("silu",), has_permuted_heads=True),
    "mistral": GgufFamily("llama", ("silu",), has_permuted_heads=True),
    "qwen2": GgufFamily("qwen2", ("silu",)),
    "qwen3": GgufFamily("qwen3", ("silu",), reader_fixes=(("head_dim", 128),)),
    "gemma": GgufFamily("gemma", (*_TANH_GELU, "gelu"), norm_offset=1.0, reader_fixes=None),
    "gemma2": GgufFamily("gemma2", _TANH_GELU, norm_offset=1.0),
    "gpt2": GgufFamily(
        "gpt2",
        _TANH_GELU,
        transposed=("attn_qkv.weight", "attn_output.weight", "ffn_"),
        reader_fixes=(("n_positions", 1024),),
    ),
}


def is_read_by_transformers(family: GgufFamily, config: PreTrainedConfig) -> bool:
    """Whether transformers opens a file of this model as this model."""
    fixes = family.reader_fixes
    return fixes is not None and all(getattr(config, key) == value for key, value in fixes)


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Rotation that is not the plain one.

    Attributes:
        kind: "linear" or "llama3".
        values: The model's own rope parameters.
    """

    kind: str
    values: dict[str, Any]


def family_of(config: PreTrainedConfig) -> GgufFamily:
    """The family of a model.

    Raises:
        ModelError: GGUF or llama.cpp has no such model, or only one that computes something else.
    """
    kind = config.model_type
    if kind not in FAMILIES:
        raise ModelError(
            f"a {kind} model cannot be exported as GGUF here; families: {', '.join(FAMILIES)}. llama.cpp's own "
            "convert_hf_to_gguf.py reads the merged folder (loratory adapter merge)"
        )
    family = FAMILIES[kind]
    faults = []
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    activation = activation or getattr(config, "activation_function", None)
    if activation not in family.activations:
        faults.append(f"its activation is {activation!r} and llama.cpp computes {family.activations[0]!r}")
    if kind == "qwen2" and getattr(config, "use_sliding_window", False):
        faults.append("it uses a sliding window, which llama.cpp does not for this family")
    if kind == "gemma2" and config.query_pre_attn_scalar != config.head_dim:
        faults.append("query_pre_attn_scalar is not head_dim, which llama.cpp takes for granted")
    rope = rope_parameters(config)
    if rope.get("rope_type", "default") not in ("default", "linear", "llama3"):
        faults.append(f"rope type {rope['rope_type']!r} is not written; default, linear and llama3 are")
    if rope.get("partial_rotary_factor", 1.0) not in (None, 1.0):
        faults.append("its rotation covers a part of each head only")
    if faults:
        raise ModelError(f"this {kind} model cannot be exported as GGUF: {'; '.join(faults)}")
    return family


def rope_parameters(config: PreTrainedConfig) -> dict[str, Any]:
    """The model's rope parameters; empty for models without."""
    return dict(getattr(config, "rope_parameters", None) or {})


def rope_scaling(config: PreTrainedConfig) -> RopeScaling | None:
    """The model's rope scaling; None for plain rotation."""
    rope = rope_parameters(config)
    kind = rope.get("rope_type", "default")
    return None if kind == "default" or not rope else RopeScaling(kind, rope)


def context_length(config: PreTrainedConfig) -> int:
    """Tokens up to which llama.cpp computes what the model does: a window that it knows not of is the end."""
    length = int(config.max_position_embeddings)
    window = getattr(config, "sliding_window", None) if config.model_type == "mistral" else None
    return min(length, int(window)) if window else length


def add_hyper_parameters(writer: Any, config: PreTrainedConfig, *, vocab_size: int) -> None:
    """Write the model's shape to a `gguf.GGUFWriter`.

    Args:
        writer: The writer.
        config: The model's configuration.
        vocab_size: Rows of the embedding.
    """
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(vocab_size)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    head_dim = _head_dim(config)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(rope_parameters(config)["rope_theta"]))
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    if config.model_type == "gemma2":
        writer.add_sliding_window(config.sliding_window)
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    scaling = rope_scaling(config)
    if scaling is not None and scaling.kind == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(scaling.values["factor"]))


def llama3_rope_factors(config: PreTrainedConfig) -> Array | None:
    """Llama 3's divisor of each rotation frequency (`rope_freqs.weight`); None for other rotations.

    Low frequencies are divided by `factor`, high ones left, those between interpolated (Llama 3.1's reference code).
    """
    scaling = rope_scaling(config)
    if scaling is None or scaling.kind != "llama3":
        return None
    values = scaling.values
    head_dim = _head_dim(config)
    frequencies = float(values["rope_theta"]) ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    factor, low, high = (float(values[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = float(values["original_max_position_embeddings"]) * frequencies / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    factors: Array = (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)
    return factors


def gguf_tensors(model: PreTrainedModel, family: GgufFamily) -> Iterator[tuple[str, Array]]:
    """GGUF name and float32 values of every weight, shared ones once, one at a time."""
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    kind = next(arch for arch in MODEL_ARCH if MODEL_ARCH_NAMES[arch] == family.architecture)
    names = get_tensor_name_map(kind, model.config.num_hidden_layers)
    factors = llama3_rope_factors(model.config)
    if factors is not None:
        yield "rope_freqs.weight", factors
    for own, parameter in model.named_parameters():
        name = names.get_name(own, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(f"GGUF has no place for the weight {own!r} of a {model.config.model_type} model")
        values = parameter.detach().to("cpu", torch.float32).numpy()
        yield name, np.ascontiguousarray(to_gguf(family, name, values, model.config))


def to_gguf(family: GgufFamily, name: str, values: Array, config: PreTrainedConfig) -> Array:
    """A tensor as GGUF keeps it; `name` is its GGUF name."""
    if family.has_permuted_heads and name.split(".", 2)[-1].startswith(PERMUTED):
        heads = _heads(name, config)
        return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    if family.norm_offset and name.endswith("norm.weight"):
        offset: Array = values + np.float32(family.norm_offset)
        return offset
    return values.T if _is_transposed(family, name, values) else values


def from_gguf(family: GgufFamily, name: str, values: Array, config: PreTrainedConfig) -> Array:
    """The inverse of `to_gguf`."""
    if family.has_permuted_heads and name.split(".", 2)[-1].startswith(PERMUTED):
        heads = _heads(name, config)
        return values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    if family.norm_offset and name.endswith("norm.weight"):
        offset: Array = values - np.float32(family.norm_offset)
        return offset
    return values.T if _is_transposed(family, name, values) else values


def _is_transposed(family: GgufFamily, name: str, values: Array) -> bool:
    return values.ndim == 2 and name.split(".", 2)[-1].startswith(family.transposed)


def _heads(name: str, config: PreTrainedConfig) -> int:
    return int(config.num_key_value_heads if ".attn_k." in name else config.num_attention_heads)


def _head_dim(config: PreTrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
