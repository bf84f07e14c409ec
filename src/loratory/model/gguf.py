"""What transformers leaves undone when it reads a GGUF file.

Its loader dequantises the weights but marks the model as quantised, which then cannot be saved; and its tokenizer
has the byte-level pre-tokenizer of every byte-level vocabulary, whatever the file's `tokenizer.ggml.pre` says.
"""

import importlib.util
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.errors import MissingExtraError, ModelError

PRE_TOKENIZER_KEY = "tokenizer.ggml.pre"


def require_gguf() -> None:
    """Raise `MissingExtraError` unless the gguf library is installed."""
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("Reading a GGUF file", "gguf")


def mark_dequantised(model: PreTrainedModel) -> None:
    """Remove the traces of GGUF quantisation from a model whose weights are plain tensors, so that it can be saved."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    model.is_quantized = False


def mend_tokenizer(tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Give a tokenizer read from `file` the pre-tokenizer that the file names.

    `smollm` splits every digit off before the byte-level step. `gpt-2` and `default` are what transformers builds.
    Other names are left as transformers built them, since it has converters for some families.

    Raises:
        ModelError: The file's header cannot be read.
    """
    if read_pre_tokenizer_name(file) != "smollm":
        return
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )


def read_pre_tokenizer_name(file: Path) -> str | None:
    """The value of `tokenizer.ggml.pre`, or None when the file has none."""
    require_gguf()
    from gguf import GGUFReader

    try:
        field = GGUFReader(file).get_field(PRE_TOKENIZER_KEY)
    except (ValueError, IndexError, OSError) as fault:
        raise ModelError(f"{file}: not a readable GGUF file ({fault})") from fault
    if field is None:
        return None
    name = field.contents()
    return name if isinstance(name, str) else None
