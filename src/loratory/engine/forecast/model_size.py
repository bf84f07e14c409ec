"""Sizes of a model that training depends on, read from its modules; weights may be on the meta device."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from loratory.config import QuantizationConfig
from loratory.tree.eligibility import base_of

_LAYER = re.compile(r"\.(\d+)\.")
_KEY_LEAVES = {"q_proj", "k_proj", "v_proj"}
_BLOCK_4BIT, _SECOND_BLOCK = 64, 256  # weights per scale, scales per second scale (bitsandbytes)


@dataclass(frozen=True, slots=True)
class LinearSize:
    """One linear layer of the body.

    Attributes:
        layer: Number of its decoder layer; -1 outside of layers.
        inputs: I.
        outputs: O.
        adapter: Trained numbers of the adapter on it.
        is_trained: Its own weight is trained.
        feeds_keys: It makes queries, keys or values, which every token needs in every layer.
    """

    layer: int
    inputs: int
    outputs: int
    adapter: int
    is_trained: bool
    feeds_keys: bool


@dataclass(frozen=True)
class ModelSize:
    """What the forecast needs to know of a model.

    Attributes:
        num_layers: Decoder layers.
        width: D.
        num_heads: Query heads H.
        head_width: K.
        vocabulary: V, rows of the head; 0 without a head over tokens.
        linears: Linear layers without the head.
        trained: Trained numbers, shared ones once.
        trained_bytes: Their bytes in memory.
        trained_tensors: How many tensors they are.
        total: All numbers, the adapter's included.
        plain_bytes: Frozen weights that are not quantised.
        quantised: Numbers of frozen weights in 4 or 8 bits.
        quantised_bytes: Their bytes, with their scales.
        is_head_trained: The head's weight is trained (also as a shared embedding).
        itemsize: Bytes of a number in activations.
    """

    num_layers: int
    width: int
    num_heads: int
    head_width: int
    vocabulary: int
    linears: tuple[LinearSize, ...]
    trained: int
    trained_bytes: int
    trained_tensors: int
    total: int
    plain_bytes: int
    quantised: int
    quantised_bytes: int
    is_head_trained: bool
    itemsize: int

    @property
    def adapter_share(self) -> float:
        """Trained share."""
        return self.trained / max(1, self.total)

    @cached_property
    def num_query_floats(self) -> int:
        """Numbers of the queries of one token in one layer."""
        return self.num_heads * self.head_width

    @cached_property
    def linear_kinds(self) -> tuple[tuple[LinearSize, int], ...]:
        """Linear layers and how many are like each; those of the last decoder layer are a kind of their own."""
        last = self.num_layers - 1
        return tuple(
            Counter(
                replace(each, layer=min(each.layer, 0)) if each.layer != last else each for each in self.linears
            ).items()
        )


def model_size(
    model: nn.Module, base: PreTrainedModel | None = None, *, quantization: QuantizationConfig | None = None
) -> ModelSize:
    """Read the sizes.

    Args:
        model: The model in training, adapter included.
        base: The transformers model in it, if that cannot be told from `model`.
        quantization: How linear weights are kept in memory; a model on the meta device has them plain.
    """
    found = base or (base_of(model) if isinstance(model, PeftModel | PreTrainedModel) else None)
    assert found is not None
    config = found.config.get_text_config()
    head = found.get_output_embeddings()
    head_weight = getattr(head, "weight", None)
    width = int(config.hidden_size)
    num_heads = int(getattr(config, "num_attention_heads", 1) or 1)
    linears = [(name, module) for name, module in _linears(found) if _base(module) is not head]
    is_quantised = quantization is not None and quantization.is_active
    packed = {id(_base(module).weight): _base(module) for _, module in linears} if is_quantised else {}
    plain = packed_numbers = packed_bytes = trained = trained_bytes = tensors = total = 0
    for parameter in model.parameters():
        owner = packed.get(id(parameter))
        if owner is not None and isinstance(owner, nn.Linear) and not parameter.requires_grad:
            assert quantization is not None
            total += owner.in_features * owner.out_features
            packed_numbers += owner.in_features * owner.out_features
            packed_bytes += quantised_bytes(owner.in_features, owner.out_features, quantization)
            continue
        total += parameter.numel()
        if parameter.requires_grad:
            trained += parameter.numel()
            trained_bytes += parameter.numel() * parameter.element_size()
            tensors += 1
        else:
            plain += parameter.numel() * parameter.element_size()
    return ModelSize(
        num_layers=int(config.num_hidden_layers),
        width=width,
        num_heads=num_heads,
        head_width=int(getattr(config, "head_dim", None) or width // num_heads),
        vocabulary=0 if head is None else int(config.vocab_size),
        linears=tuple(_size(name, module) for name, module in linears),
        trained=trained,
        trained_bytes=trained_bytes,
        trained_tensors=tensors,
        total=total,
        plain_bytes=plain,
        quantised=packed_numbers,
        quantised_bytes=packed_bytes,
        is_head_trained=head_weight is not None and bool(head_weight.requires_grad),
        itemsize=found.dtype.itemsize,
    )


def quantised_bytes(inputs: int, outputs: int, quantization: QuantizationConfig) -> int:
    """Bytes of one linear weight as bitsandbytes keeps it, scales included."""
    count = inputs * outputs
    if quantization.load_in_8bit:
        return count + 4 * outputs
    scales = -(-count // _BLOCK_4BIT)
    scale_bytes = 4 * scales
    if quantization.bnb_4bit_use_double_quant:
        scale_bytes = scales + 4 * -(-scales // _SECOND_BLOCK) + 4 * 256
    return -(-count // 2) + scale_bytes + 4 * 16


def _linears(base: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Linear layers by full name, adapted ones as their adapter's layer, and nothing from inside those."""
    inside: tuple[str, ...] = ()
    for name, module in base.named_modules():
        if inside and name.startswith(inside):
            continue
        if isinstance(module, BaseTunerLayer) and isinstance(module.get_base_layer(), nn.Linear | Conv1D):
            inside = (*inside[-8:], f"{name}.")
            yield name, module
        elif isinstance(module, nn.Linear | Conv1D):
            yield name, module


def _base(module: nn.Module) -> nn.Module:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _size(name: str, module: nn.Module) -> LinearSize:
    linear = _base(module)
    assert isinstance(linear, nn.Linear | Conv1D)
    inputs, outputs = (
        (linear.nx, linear.nf) if isinstance(linear, Conv1D) else (linear.in_features, linear.out_features)
    )
    own = {id(p) for p in linear.parameters()}
    layer = _LAYER.search(name)
    return LinearSize(
        layer=int(layer.group(1)) if layer else -1,
        inputs=inputs,
        outputs=outputs,
        adapter=sum(p.numel() for p in module.parameters() if p.requires_grad and id(p) not in own),
        is_trained=linear.weight.requires_grad,
        feeds_keys=name.rsplit(".", 1)[-1] in _KEY_LEAVES,
    )


def activation_itemsize(size: ModelSize, *, is_mixed: bool) -> int:
    """Bytes of a number in activations; autocast keeps either width."""
    return 4 if is_mixed else size.itemsize
