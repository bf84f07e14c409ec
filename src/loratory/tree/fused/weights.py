"""What the fused path reads from a model: references to its weights, and the reasons why it would not be exact.

Nothing is copied or changed; the model stays what transformers and PEFT made it. Weights are read again for every
tree, so that a disabled or exchanged adapter counts from the next call on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn
from transformers import PreTrainedModel

from loratory.tree.classes import score_layer
from loratory.tree.eligibility import base_of, eligibility

Activation = Literal["silu", "gelu_tanh"]
FAMILIES = frozenset({"gemma", "llama", "mistral", "qwen2", "qwen3"})
ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


class UnfusableError(Exception):
    """The model has something that the fused path does not compute; the message completes 'because …'."""


@dataclass(frozen=True, slots=True, eq=False)
class LoraWeights:
    """`scaling * b_OR @ a_RI` is added to the frozen weight."""

    a_RI: torch.Tensor
    b_OR: torch.Tensor
    scaling: float


@dataclass(frozen=True, slots=True, eq=False)
class LinearWeights:
    """A frozen linear map and its adapter, if any; or those of several models that share it, one for each."""

    weight_OI: torch.Tensor
    bias_O: torch.Tensor | None
    lora: LoraWeights | None
    several: tuple[LoraWeights | None, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class NormWeights:
    """RMSNorm: `x / rms(x) * scale_D`."""

    scale_D: torch.Tensor
    eps: float


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """One decoder layer. Head counts follow from the shapes, so that unevenly pruned layers are fine."""

    input_norm: NormWeights
    q: LinearWeights
    k: LinearWeights
    v: LinearWeights
    q_norm: NormWeights | None
    k_norm: NormWeights | None
    o: LinearWeights
    post_norm: NormWeights
    gate: LinearWeights
    up: LinearWeights
    down: LinearWeights
    head_width: int
    scaling: float
    activation: Activation

    @property
    def num_heads(self) -> int:
        """Query heads."""
        return self.q.weight_OI.shape[0] // self.head_width

    @property
    def num_key_heads(self) -> int:
        """Key-value heads."""
        return self.k.weight_OI.shape[0] // self.head_width

    def parameters(self) -> Iterator[torch.Tensor]:
        """LoRA matrices, A and B of each adapted linear, in the order q, k, v, o, gate, up, down, model by model."""
        for linear in (self.q, self.k, self.v, self.o, self.gate, self.up, self.down):
            for lora in (linear.lora, *linear.several):
                if lora is not None:
                    yield lora.a_RI
                    yield lora.b_OR


def fused_refusal(model: PreTrainedModel | PeftModel) -> str | None:
    """Why the fused path is not for this model, or None. Dropout is not looked at: see `read_layers`."""
    refusal = inference_refusal(model)
    if refusal is not None:
        return refusal
    layers = read_layers(model, allow_dropout=True)
    known = {id(parameter) for layer in layers for parameter in layer.parameters()}
    score = score_layer(base_of(model))
    known |= {id(parameter) for parameter in score.parameters()} if score is not None else set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in known:
            return f"'{name}' is trained, not only LoRA matrices"
    return None


def inference_refusal(model: PreTrainedModel | PeftModel) -> str | None:
    """As `fused_refusal` where nothing is trained: why the layers cannot be computed from `read_layers`, or None."""
    base = base_of(model)
    refusal = eligibility(model).refusal or _base_refusal(base)
    if refusal is not None:
        return refusal
    try:
        read_layers(model, allow_dropout=True)
    except UnfusableError as error:
        return str(error)
    return None


def _base_refusal(base: PreTrainedModel) -> str | None:
    config = base.config
    if config.model_type not in FAMILIES:
        return f"no fused layers for model type '{config.model_type}'"
    if config.hidden_act not in ACTIVATIONS:
        return f"no fused activation '{config.hidden_act}'"
    if base.dtype not in (torch.float32, torch.float64):
        return f"fused layers are for fp32, the model is {base.dtype}"
    if base.device.type not in ("cpu", "meta"):
        return f"fused layers are for CPU, the model is on {base.device}"
    if score_layer(base) is None and type(base.get_output_embeddings()) is not nn.Linear:
        return "the head is not a plain linear layer"
    if getattr(config, "use_bidirectional_attention", False):
        return "attention is bidirectional"
    for name, module in base.named_modules():
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
            return f"module '{name}' has hooks, which fused layers would not call"
    return None


def read_layers(model: PreTrainedModel | PeftModel, *, allow_dropout: bool = False) -> tuple[LayerWeights, ...]:
    """References to the weights of all decoder layers as the model would use them now.

    Args:
        model: A model of `FAMILIES`.
        allow_dropout: Do not complain about LoRA dropout that is active now.

    Raises:
        UnfusableError: A linear is neither plain nor a plain LoRA layer.
    """
    base = base_of(model)
    return tuple(
        _read_layer(layer, base, allow_dropout) for layer in base.base_model.layers[: base.config.num_hidden_layers]
    )


def _read_layer(layer: Any, base: PreTrainedModel, allow_dropout: bool) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    linears = {
        name: _read_linear(parent.get_submodule(f"{name}_proj"), f"{name}_proj", base.dtype, allow_dropout)
        for parent, names in ((attention, "qkvo"), (mlp, ("gate", "up", "down")))
        for name in names
    }
    head_width = int(attention.head_dim)
    for name in "qkv":
        if linears[name].weight_OI.shape[0] % head_width:
            raise UnfusableError(f"width of {name}_proj is no multiple of the head width {head_width}")
    if linears["q"].weight_OI.shape[0] % linears["k"].weight_OI.shape[0]:
        raise UnfusableError("query heads are no multiple of key heads")
    offset = 1.0 if base.config.model_type == "gemma" else 0.0
    has_head_norms = base.config.model_type == "qwen3"
    return LayerWeights(
        input_norm=read_norm(layer.input_layernorm, offset),
        post_norm=read_norm(layer.post_attention_layernorm, offset),
        q_norm=read_norm(attention.q_norm, offset) if has_head_norms else None,
        k_norm=read_norm(attention.k_norm, offset) if has_head_norms else None,
        head_width=head_width,
        scaling=float(attention.scaling),
        activation=ACTIVATIONS[base.config.hidden_act],
        **linears,
    )


def read_norm(module: Any, offset: float) -> NormWeights:
    """An RMSNorm module's weights; `offset` is 1 for families that store the weight minus one."""
    eps = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
    if eps is None:
        raise UnfusableError(f"a norm is a {type(module).__name__}")
    weight = module.weight.detach()
    return NormWeights(weight + offset if offset else weight, float(eps))


def final_norm(model: PreTrainedModel | PeftModel) -> NormWeights:
    """The norm in front of the head."""
    base = base_of(model)
    return read_norm(base.base_model.norm, 1.0 if base.config.model_type == "gemma" else 0.0)


def _read_linear(module: Any, name: str, dtype: torch.dtype, allow_dropout: bool) -> LinearWeights:
    if type(module) is nn.Linear:
        return _plain(module, name, dtype)
    if type(module) is not LoraLinear:
        raise UnfusableError(f"{name} is a {type(module).__name__}, not a linear layer or plain LoRA on one")
    base = _plain(module.get_base_layer(), name, dtype)
    active = [adapter for adapter in module.active_adapters if adapter in module.lora_A]
    if module.merged:
        if module.disable_adapters:
            raise UnfusableError(f"the adapter is merged into {name} and disabled")
        return base
    if module.disable_adapters or not active:
        return base
    if len(active) > 1:
        raise UnfusableError(f"{name} has several active adapters: {', '.join(active)}")
    return LinearWeights(base.weight_OI, base.bias_O, _lora(module, active[0], name, dtype, allow_dropout))


def _plain(module: Any, name: str, dtype: torch.dtype) -> LinearWeights:
    if type(module) is not nn.Linear:
        raise UnfusableError(f"{name} is a {type(module).__name__}")
    if module.weight.dtype != dtype:
        raise UnfusableError(f"{name} is {module.weight.dtype}, the model {dtype}")
    return LinearWeights(module.weight.detach(), None if module.bias is None else module.bias.detach(), None)


def _lora(module: LoraLinear, adapter: str, name: str, dtype: torch.dtype, allow_dropout: bool) -> LoraWeights:
    variant = module.lora_variant.get(adapter)
    if variant is not None or adapter in module.lora_magnitude_vector:
        raise UnfusableError(f"{name} has the LoRA variant {type(variant).__name__.removesuffix('LinearVariant')}")
    if module.fan_in_fan_out:
        raise UnfusableError(f"{name} stores its weight transposed")
    a, b = module.lora_A[adapter], module.lora_B[adapter]
    if b.bias is not None:
        raise UnfusableError(f"LoRA of {name} has a bias")
    if a.weight.dtype != dtype or b.weight.dtype != dtype:
        raise UnfusableError(f"LoRA of {name} is {a.weight.dtype}, the model {dtype}")
    dropout = module.lora_dropout[adapter]
    if not allow_dropout and dropout.training and getattr(dropout, "p", 0.0) > 0:
        raise UnfusableError(f"adapter dropout is {dropout.p:g}")
    return LoraWeights(a.weight, b.weight, float(module.scaling[adapter]))
