"""Mixed precision of the step."""

import torch

from loratory.config import TrainConfig

_DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast_dtype(section: TrainConfig, model_dtype: torch.dtype) -> torch.dtype | None:
    """The autocast dtype, or None for plain arithmetic; 'auto' follows the model's weights."""
    if section.precision == "auto":
        return model_dtype if model_dtype in (torch.bfloat16, torch.float16) else None
    return _DTYPES[section.precision]
