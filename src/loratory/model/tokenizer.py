"""The tokenizer and its padding policy.

A missing pad token never becomes a new vocabulary entry (the embedding keeps its size) and is never a reason to mask
by token id: every mask in loratory is by position, so that a pad id equal to the stop token stays harmless.
"""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from loratory.config import ModelConfig
from loratory.errors import ModelError
from loratory.model.gguf import mend_tokenizer, require_gguf
from loratory.model.source import ModelSource, first_line, locate_tokenizer, snapshot_folder

# Existing vocabulary entries that stand for padding in tokenizers that do not declare one.
PAD_NAMES = ("<pad>", "<|pad|>", "[PAD]", "<PAD>", "<|finetune_right_pad_id|>", "<|endoftext|>", "<|reserved_0|>")
# transformers keeps these among the tokenizer's settings and would write them into every saved copy.
LOADING_OPTIONS = ("is_local", "local_files_only", "trust_remote_code")


def load_tokenizer(section: ModelConfig, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer without the weights, with a pad token set.

    Raises:
        ModelError: The source has no usable tokenizer, or needs code of its own and that was not allowed.
    """
    source = locate_tokenizer(section)
    if source.pickled_file is not None and not has_tokenizer(Path(source.name)):
        raise ModelError(
            f"{source.label} holds no tokenizer that can be taken out without running its code. "
            "Set model.tokenizer_name_or_path (--tokenizer) to the base model's"
        )
    if source.gguf_file is not None:
        require_gguf()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.name,
            gguf_file=source.gguf_file,
            revision=source.revision,
            local_files_only=source.is_local,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ModelError(_no_tokenizer(source, fault)) from fault
    if source.gguf_file is not None:
        mend_tokenizer(tokenizer, snapshot_folder(source) / source.gguf_file)
    for key in LOADING_OPTIONS:
        tokenizer.init_kwargs.pop(key, None)
    _set_pad_token(tokenizer)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether a converted folder holds a tokenizer's files."""
    return (folder / "tokenizer_config.json").is_file()


def _set_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Declare an existing token as padding: one made for it, else the unknown token, else the stop token."""
    if tokenizer.pad_token is not None:
        return
    vocabulary = tokenizer.get_vocab()
    for name in (*PAD_NAMES, tokenizer.unk_token):
        if name is not None and name in vocabulary and name not in (tokenizer.eos_token, tokenizer.bos_token):
            tokenizer.pad_token = name
            return
    if tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token


def _no_tokenizer(source: ModelSource, fault: Exception) -> str:
    reason = first_line(fault)
    if "trust_remote_code" in str(fault):
        return (
            f"the tokenizer of {source.label} needs code from its own repository, which is not run unless you pass "
            "--trust-remote-code"
        )
    return (
        f"no usable tokenizer in {source.label}: {reason} "
        "Set model.tokenizer_name_or_path when the tokenizer lies elsewhere"
    )
