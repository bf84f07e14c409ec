"""A frozen base in 4 or 8 bits, through bitsandbytes.

Only the linear layers are quantised, never the output head. Norms, embeddings and the head keep the model's dtype:
nothing is cast to float32 behind the user's back, and nothing needs to be, because the adapter's own weights are
float32 and its products are computed in that precision. bitsandbytes has CPU kernels for both widths, so QLoRA also
runs (slowly) where there is no GPU.
Source: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023.
"""

import importlib.util
import logging

import torch
from transformers import BitsAndBytesConfig

from loratory.config import QuantizationConfig
from loratory.errors import MissingExtraError
from loratory.model.precision import DTYPES

CPU_REPACKING = "support_avx512bf16_for_cpu"


def quantisation_config(section: QuantizationConfig | None, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """What transformers needs to load the base quantised, or None for a base that stays as it is.

    Args:
        section: The user's options.
        dtype: The model's number format, used for the arithmetic when the section says "auto".

    Raises:
        MissingExtraError: Quantisation is asked for and bitsandbytes is not installed.
    """
    if section is None or not section.is_active:
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("A base in 4 or 8 bits (quantization.load_in_4bit, load_in_8bit)", "quantization")
    # bitsandbytes announces at import that an optional CPU kernel of the hub is absent; its own kernels are used.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if section.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    name = section.bnb_4bit_compute_dtype
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=dtype if name == "auto" else DTYPES[name],
        bnb_4bit_quant_type=section.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=section.bnb_4bit_use_double_quant,
    )


def keep_packing(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights when they are used without gradients on a CPU.

    On CPUs with AVX512-BF16 its 4-bit layer converts itself in place at the first evaluation, with scales rounded to
    bfloat16: evaluating in the middle of a run would change the base that is trained on, and a resumed run would
    differ. Layers whose width is not a multiple of 64 cannot be converted and fail. The switch is the layer's own.
    """
    for module in model.modules():
        if hasattr(module, CPU_REPACKING):
            setattr(module, CPU_REPACKING, False)


def is_quantised(model: torch.nn.Module) -> bool:
    """Whether the model's linear layers are kept in 4 or 8 bits."""
    return bool(getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False))
