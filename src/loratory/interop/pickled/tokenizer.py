"""Take the tokenizer out of a pickled model as the files it was made from.

The object never comes alive: a fast tokenizer's own JSON and a slow one's SentencePiece model are byte strings in the
pickle, and are written as they are beside a `tokenizer_config.json` of plain settings.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loratory.errors import UnsafeError
from loratory.interop.pickled.inert import InertObject

MAX_JSON_BYTES = 64 << 20
MAX_NODES = 2_000_000
MAX_DEPTH = 8
MAX_TEXT = 1 << 16
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
SETTINGS = (
    "model_max_length",
    "padding_side",
    "truncation_side",
    "chat_template",
    "clean_up_tokenization_spaces",
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "legacy",
    "split_special_tokens",
)
FAST, SLOW = "tokenizer.json", "tokenizer.model"


def write_tokenizer(tokenizer: Any, folder: Path) -> list[str]:
    """Write what can be taken out of a pickled tokenizer.

    Args:
        tokenizer: The inert value.
        folder: Where the files go.

    Returns:
        Names of the files written; empty when the pickle holds neither JSON nor a SentencePiece model.

    Raises:
        UnsafeError: Sizes that no tokenizer has.
    """
    if not isinstance(tokenizer, InertObject) or not isinstance(tokenizer.state, dict):
        return []
    name, content = _vocabulary(tokenizer)
    if content is None:
        return []
    (folder / name).write_bytes(content)
    settings = _settings(tokenizer)
    if name == SLOW:
        settings["tokenizer_class"] = "LlamaTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    return [name, "tokenizer_config.json"]


def _vocabulary(tokenizer: InertObject) -> tuple[str, bytes | None]:
    proto = tokenizer.state.get("sp_model_proto")
    for value in _nodes(tokenizer.state, 0, [0]):
        if isinstance(value, InertObject) and value.name.dotted == "tokenizers.Tokenizer":
            content = value.state if isinstance(value.state, bytes) else None
            if content is not None and _is_json(content):
                return FAST, content
    return SLOW, proto if isinstance(proto, bytes) and 0 < len(proto) <= MAX_JSON_BYTES else None


def _settings(tokenizer: InertObject) -> dict[str, Any]:
    state = tokenizer.state
    given = state.get("init_kwargs")
    layers = [given if isinstance(given, dict) else {}, state]
    special = state.get("_special_tokens_map")
    if isinstance(special, dict):
        layers.append(special)
    found: dict[str, Any] = {}
    for layer in layers:
        for key in SETTINGS:
            value = layer.get(key)
            if isinstance(value, bool | int) or (isinstance(value, str) and len(value) <= MAX_TEXT):
                found[key] = value
        for key in SPECIAL:
            token = _token(layer.get(key, layer.get(f"_{key}")))
            if token is not None:
                found[key] = token
    return found


def _token(value: Any) -> str | None:
    """The text of a special token: a plain one, or an AddedToken's."""
    if isinstance(value, InertObject) and isinstance(value.state, dict):
        value = value.state.get("content")
    elif isinstance(value, InertObject) and isinstance(value.args, tuple) and value.args:
        value = value.args[0]
    return value if isinstance(value, str) and 0 < len(value) < 200 else None


def _is_json(content: bytes) -> bool:
    if len(content) > MAX_JSON_BYTES:
        raise UnsafeError(f"its tokenizer is {len(content)} bytes of JSON; allowed are {MAX_JSON_BYTES}")
    try:
        return isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False


def _nodes(value: Any, depth: int, count: list[int]) -> Iterator[Any]:
    count[0] += 1
    if count[0] > MAX_NODES:
        raise UnsafeError("its tokenizer has more parts than any")
    yield value
    if depth >= MAX_DEPTH:
        return
    if isinstance(value, InertObject):
        yield from _nodes(value.state, depth + 1, count)
    elif isinstance(value, dict):
        for item in value.values():
            if not isinstance(item, str | int):
                yield from _nodes(item, depth + 1, count)
