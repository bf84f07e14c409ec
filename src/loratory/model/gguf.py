"""What transformers leaves undone when it reads a GGUF file.

Its loader dequantises the weights but marks the model as quantised, which then cannot be saved; and its tokenizer
has the byte-level pre-tokenizer of every byte-level vocabulary, whatever the file's `tokenizer.ggml.pre` says.
"""

import importlib.util
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tokenizers import pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.errors import MissingExtraError, ModelError

PRE_TOKENIZER_KEY = "tokenizer.ggml.pre"
TEXT_KIND, ARRAY_KIND = 8, 9
KIND_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


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
    """The value of `tokenizer.ggml.pre`, or None when the file has none.

    Walks the header up to that key: the gguf library reads the whole vocabulary first, which takes seconds.

    Raises:
        ModelError: The file is not GGUF, or its header claims more than the file holds.
    """
    try:
        with file.open("rb") as stream:
            return _find_text(_Header(stream, file.stat().st_size), PRE_TOKENIZER_KEY)
    except (ValueError, RecursionError, struct.error) as fault:
        raise ModelError(f"{file}: not a readable GGUF file ({fault})") from fault


@dataclass(frozen=True, slots=True)
class _Header:
    """The key-value part of a GGUF file, little-endian (GGUF specification, versions 2 and 3)."""

    stream: BinaryIO
    num_bytes: int

    def number(self, form: str) -> int:
        found: int = struct.unpack(form, self.stream.read(struct.calcsize(form)))[0]
        return found

    def text(self) -> bytes:
        return self.stream.read(self._fits(self.number("<Q")))

    def skip(self, kind: int) -> None:
        if kind == TEXT_KIND:
            self.stream.seek(self._fits(self.number("<Q")), 1)
        elif kind == ARRAY_KIND:
            inner, count = self.number("<I"), self.number("<Q")
            if inner in KIND_BYTES:
                self.stream.seek(self._fits(count * KIND_BYTES[inner]), 1)
            else:
                for _ in range(self._fits(count)):
                    self.skip(inner)
        elif kind in KIND_BYTES:
            self.stream.seek(KIND_BYTES[kind], 1)
        else:
            raise ValueError(f"value of unknown kind {kind}")

    def _fits(self, size: int) -> int:
        if size > self.num_bytes - self.stream.tell():
            raise ValueError("a length reaches past the end of the file")
        return size


def _find_text(header: _Header, wanted: str) -> str | None:
    if header.stream.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version, _, num_keys = header.number("<I"), header.number("<Q"), header.number("<Q")
    if version not in (2, 3):
        raise ValueError(f"version {version}; 2 and 3 can be read")
    for _ in range(num_keys):
        key, kind = header.text(), header.number("<I")
        if key == wanted.encode() and kind == TEXT_KIND:
            return header.text().decode("utf-8")
        header.skip(kind)
    return None
