"""How many rows are answered side by side when nobody says: as many as their keys and values may take of memory."""

import psutil
import torch
from peft import PeftModel
from transformers import PreTrainedModel

_MOST_ROWS = 256
_MOST_PADDED_ROWS = 32
_SHARE_OF_FREE_MEMORY = 0.25


def rows_at_once(model: PreTrainedModel | PeftModel, *, longest_tokens: int, is_padded: bool) -> int:
    """Rows per forward pass.

    Args:
        model: The model that answers.
        longest_tokens: Prompt and answer of the longest row.
        is_padded: Rows are padded to the longest of the batch, which large batches pay for.
    """
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row_bytes = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize * max(1, longest_tokens)
    fitting = int(_SHARE_OF_FREE_MEMORY * _free_bytes(model.device)) // row_bytes
    most = _MOST_PADDED_ROWS if is_padded else _MOST_ROWS
    return int(max(1, min(fitting, most)))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
