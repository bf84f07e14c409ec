"""Mixed precision of the step."""

import contextlib

import torch

from loratory.config import TrainConfig

_DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast_dtype(section: TrainConfig, model_dtype: torch.dtype) -> torch.dtype | None:
    """The autocast dtype, or None for arithmetic in the dtype of the weights.

    'auto' needs no autocast for float32 and bfloat16 weights; float16 ones get it, with a loss scale.
    """
    if section.precision == "auto":
        return torch.float16 if model_dtype == torch.float16 else None
    return _DTYPES[section.precision]


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    """Mixed precision of a forward pass; nothing when `dtype` is None."""
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)
