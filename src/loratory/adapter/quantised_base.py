"""The base that a QLoRA adapter was trained on: its linear weights quantised and dequantised, tensor by tensor.

The adapter's layers computed s B A x on top of the quantised weights, so a merge into the original weights differs
from what was trained by the quantisation error. Source: Dettmers et al., "QLoRA", 2023.
"""

import importlib.util
from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from loratory.adapter.base_form import BaseForm
from loratory.config import QuantizationConfig
from loratory.errors import MissingExtraError

INT8_LEVELS = 127


def quantised_names(model: PreTrainedModel) -> frozenset[str]:
    """Full names of the weights that are quantised on loading: linear layers except the output head.

    Args:
        model: A skeleton's model, not yet adapted.
    """
    head = model.get_output_embeddings()
    return frozenset(
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    )


def quantization_of(name: str) -> QuantizationConfig:
    """The options that an adapter's manifest names ("nf4", "fp4", "int8")."""
    if name == "int8":
        return QuantizationConfig(load_in_8bit=True)
    return QuantizationConfig(load_in_4bit=True, bnb_4bit_quant_type=name)


def dequantised(original: BaseForm, names: frozenset[str], section: QuantizationConfig) -> BaseForm:
    """The form in which the quantised base holds its weights.

    Args:
        original: The original weights.
        names: Full names of the quantised weights.
        section: The format.

    Raises:
        MissingExtraError: 4 bits without bitsandbytes.
    """
    if section.load_in_4bit and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("Merging an adapter that was trained on a 4-bit base", "quantization")

    def read_dequantised(name: str) -> torch.Tensor:
        weight = original.read(name)
        if name not in names:
            return weight
        return _through_int8(weight) if section.load_in_8bit else _through_4bit(weight, section)

    return replace(original, read=read_dequantised, whole=original.whole | names)


def _through_4bit(weight: torch.Tensor, section: QuantizationConfig) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(
        weight.contiguous(),
        quant_type=section.bnb_4bit_quant_type,
        compress_statistics=section.bnb_4bit_use_double_quant,
    )
    result: torch.Tensor = dequantize_4bit(packed, state)
    return result.float().view(weight.shape)


def _through_int8(weight_OI: torch.Tensor) -> torch.Tensor:
    """LLM.int8's weights: each row in steps of its largest value / 127."""
    step_O1 = weight_OI.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / INT8_LEVELS
    return (weight_OI / step_O1).round() * step_O1
