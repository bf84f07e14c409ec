"""Other tools' files of settings: text, JSON, and their values in messages. YAML is read by `config.document`."""

import json
from pathlib import Path

from loratory.config.document import MAX_BYTES, dump_document, read_text
from loratory.errors import ConfigError

REGISTER_NAME = "dataset_info.json"


def as_mapping(document: object, path: Path) -> dict[str, object]:
    """The document of `path`, which must be a mapping.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected a mapping of settings; got {show_value(document)}")
    return document


def settings_text(path: Path) -> str:
    """The text of a file of settings, of which only a register of datasets may be large.

    Raises:
        ConfigError: It is missing, too large, or not UTF-8 text.
    """
    return read_text(path, what="settings", max_bytes=None if path.name == REGISTER_NAME else MAX_BYTES)


def read_json(path: Path) -> dict[str, object]:
    """A JSON mapping in which no key is given twice.

    Raises:
        ConfigError: It is missing, too large, not JSON, or no mapping.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        document = dict(pairs)
        if len(document) < len(pairs):
            twice = next(key for key, _ in pairs if [name for name, _ in pairs].count(key) > 1)
            raise ConfigError(f"{path}: {twice} is given twice; keep one of them")
        return document

    try:
        return as_mapping(json.loads(settings_text(path), object_pairs_hook=unique), path)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid JSON: nested too deeply") from None


def show_value(value: object) -> str:
    """A setting's value on one line, cut where it is long."""
    if isinstance(value, str):
        text = repr(value) if not value or value.strip() != value or not value.isprintable() else value
    else:
        text = " ".join(dump_document(value).removesuffix("...\n").split()) if _is_short(value) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_short(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float)
