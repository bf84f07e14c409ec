"""A tokenizer as GGUF keeps it: tokens with kinds and scores, merges, pre-tokenizer, special tokens.

llama.cpp tokenises by its own code, which it chooses by the name of the pre-tokenizer. A tokenizer whose splitting has
no such name is refused: under a wrong one the model reads other tokens, without any other sign.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from loratory.errors import ModelError

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Splitting expression of a published tokenizer -> its name in llama.cpp.
SPLITS = {
    _LLAMA3: "llama-bpe",
    _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"): "qwen2",
}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """What is written about a tokenizer.

    Attributes:
        model: "gpt2" (byte-level BPE) or "llama" (SentencePiece).
        pre: Name of the pre-tokenizer; None for SentencePiece.
        tokens: One per row of the embedding.
        kinds: GGUF's token type of each.
        scores: SentencePiece's scores; None for byte-level vocabularies.
        merges: "left right" each; empty for SentencePiece, which merges by score.
        adds_bos: Whether the tokenizer itself opens a text with BOS.
        adds_space: Whether it puts a space before a text; None for byte-level vocabularies.
        special_ids: bos, eos, unk, pad and the like, by GGUF's names.
    """

    model: str
    pre: str | None
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    scores: tuple[float, ...] | None
    merges: tuple[str, ...]
    adds_bos: bool
    adds_space: bool | None
    special_ids: Mapping[str, int]


def read_vocabulary(
    tokenizer: PreTrainedTokenizerBase, *, num_rows: int, stop_token_id: int | None = None
) -> GgufVocabulary:
    """Take a tokenizer apart.

    Args:
        tokenizer: With a `tokenizers` backend.
        num_rows: Rows of the model's embedding; ids without a token get a placeholder.
        stop_token_id: The token that ends an answer under the template, when it is not EOS.

    Raises:
        ModelError: llama.cpp has no such tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError("GGUF needs a tokenizer with a tokenizer.json; this one has none")
    parts: dict[str, Any] = json.loads(backend.to_str())
    model = parts["model"]
    if model["type"] != "BPE":
        raise ModelError(f"a {model['type']} vocabulary cannot be written as GGUF here; BPE ones can")
    is_byte_level = not model.get("byte_fallback")
    merges = tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    tokens, kinds = _tokens(tokenizer, num_rows, unknown=None if is_byte_level else tokenizer.unk_token)
    opening = tokenizer("x")["input_ids"][:1]
    return GgufVocabulary(
        model="gpt2" if is_byte_level else "llama",
        pre=_pre_tokenizer(parts) if is_byte_level else None,
        tokens=tokens,
        kinds=kinds,
        scores=None if is_byte_level else _scores(tokens, merges),
        merges=merges if is_byte_level else (),
        adds_bos=tokenizer.bos_token_id is not None and opening == [tokenizer.bos_token_id],
        adds_space=None if is_byte_level else _adds_space(parts),
        special_ids=_special_ids(tokenizer, stop_token_id),
    )


def add_vocabulary(writer: Any, vocabulary: GgufVocabulary, *, chat_template: str | None) -> None:
    """Write a vocabulary, and the chat template as Jinja, to a `gguf.GGUFWriter`."""
    writer.add_tokenizer_model(vocabulary.model)
    if vocabulary.pre is not None:
        writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.kinds))
    if vocabulary.scores is not None:
        writer.add_token_scores(list(vocabulary.scores))
    if vocabulary.merges:
        writer.add_token_merges(list(vocabulary.merges))
    writer.add_add_bos_token(vocabulary.adds_bos)
    if vocabulary.adds_space is not None:
        writer.add_add_space_prefix(vocabulary.adds_space)
    for name, token_id in vocabulary.special_ids.items():
        getattr(writer, f"add_{name}_token_id")(token_id)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def _tokens(
    tokenizer: PreTrainedTokenizerBase, num_rows: int, *, unknown: str | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    by_id = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    added = {token_id: token.special for token_id, token in tokenizer.added_tokens_decoder.items()}
    special = set(tokenizer.all_special_ids)
    tokens, kinds = [], []
    for token_id in range(num_rows):
        token = by_id.get(token_id)
        if token is None:
            tokens.append(f"[PAD{token_id}]")
            kinds.append(UNUSED)
            continue
        tokens.append(token)
        if token == unknown:
            kinds.append(UNKNOWN)
        elif token_id in special or added.get(token_id) is True:
            kinds.append(CONTROL)
        elif token_id in added:
            kinds.append(USER_DEFINED)
        elif unknown is not None and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            kinds.append(BYTE)
        else:
            kinds.append(NORMAL)
    return tuple(tokens), tuple(kinds)


def _scores(tokens: tuple[str, ...], merges: tuple[str, ...]) -> tuple[float, ...]:
    """SentencePiece joins the pair whose token scores highest; tokenizer.json lists the same order as merges."""
    rank: dict[str, int] = {}
    for index, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        rank.setdefault(left + right, index)
    return tuple(float(-rank.get(token, 0)) for token in tokens)


def _pre_tokenizer(parts: dict[str, Any]) -> str:
    found = parts["pre_tokenizer"] or {}
    steps = found.get("pretokenizers", [found])
    kinds = [step.get("type") for step in steps]
    if kinds[-1:] == ["ByteLevel"] and not steps[-1].get("add_prefix_space"):
        splits_itself = steps[-1].get("use_regex", True)
        if kinds == ["ByteLevel"] and splits_itself:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and splits_itself and steps[0].get("individual_digits"):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not splits_itself:
            name = SPLITS.get(steps[0]["pattern"].get("Regex", ""))
            if name is not None and steps[0]["behavior"] == "Isolated" and not steps[0]["invert"]:
                return name
    raise ModelError(
        f"the tokenizer splits text by {json.dumps(found, ensure_ascii=False)[:300]}, which has no name in llama.cpp "
        f"known here ({', '.join(('gpt-2', 'smollm', *SPLITS.values()))}); under another name the model would read "
        "other tokens. llama.cpp's convert_hf_to_gguf.py knows more of them and reads the merged folder"
    )


def _adds_space(parts: dict[str, Any]) -> bool:
    normalizer, pre = parts.get("normalizer") or {}, parts.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    if any(step.get("type") == "Prepend" for step in steps):
        return True
    return pre.get("type") == "Metaspace" and pre.get("prepend_scheme") != "never"


def _special_ids(tokenizer: PreTrainedTokenizerBase, stop_token_id: int | None) -> dict[str, int]:
    found = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unk": tokenizer.unk_token_id,
        "pad": tokenizer.pad_token_id,
        "eot": stop_token_id if stop_token_id != tokenizer.eos_token_id else None,
    }
    return {name: token_id for name, token_id in found.items() if token_id is not None}
