"""From a YAML file and overrides to a `RunConfig`, or to one error that lists every fault.

Values are never converted: text stays text, and a number given as text is a fault. Nothing is written back.
"""

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from loratory.config.document import MAX_BYTES, dump_document, parse_document, read_document
from loratory.config.fields import config_fields, config_sections, field_of, section_names, suggest_key
from loratory.config.root import RunConfig
from loratory.errors import ConfigError, UnsafeError
from loratory.interop.peft_document import is_peft_document, translate_peft_document

_LOG = logging.getLogger(__name__)
_CODE_KEYS = {"reward_function", "reward_funcs"}


@dataclass(frozen=True, slots=True)
class ConfigReading:
    """A configuration and what was said while reading it.

    Attributes:
        config: The resolved configuration.
        notes: Sentences about keys of another tool's file that were ignored or approximated.
    """

    config: RunConfig
    notes: tuple[str, ...]


def read_config(path: Path, overrides: Sequence[str] = ()) -> ConfigReading:
    """Read a YAML file, apply `section.key=value` overrides, and validate everything at once.

    Relative paths inside the file stay as written; they mean paths from the current directory.

    Args:
        path: Our YAML file, or one in the form that `loratory.interop.peft_document` knows.
        overrides: Assignments such as `train.learning_rate=2e-4`; values are YAML.

    Raises:
        ConfigError: With one fault per wrong key or value.
        UnsafeError: The file would build objects, expand without bounds, or names code to run.
    """
    return _reading(read_document(path), str(path), overrides)


def read_config_text(text: str, source: str, overrides: Sequence[str] = ()) -> ConfigReading:
    """`read_config` for YAML that stands in no file.

    Args:
        text: The YAML.
        source: What messages call it.
        overrides: As for `read_config`.

    Raises:
        ConfigError, UnsafeError: As `read_config`.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source}: {len(text):,} characters is too large for a configuration; allowed {MAX_BYTES:,}")
    return _reading(parse_document(text, source), source, overrides)


def _reading(document: object, source: str, overrides: Sequence[str]) -> ConfigReading:
    if not isinstance(document, dict):
        found = "nothing" if document is None else _kind(document)
        raise ConfigError(f"{source}: holds {found}; expected sections: {', '.join(section_names())}")
    _refuse_code(document, source)
    notes: tuple[str, ...] = ()
    values: dict[str, Any] = document
    if is_peft_document(document):
        translation = translate_peft_document(document, native_keys=frozenset(config_fields()), source=source)
        values, notes = dict(translation.values), translation.notes
    config = build_config(values, overrides)
    if not config.data.train:
        notes += (f"{source}: names no training rows; give data.train=FILE.",)
    return ConfigReading(config, notes)


def _refuse_code(value: object, source: str) -> None:
    """A run file is data, and may come from anybody; which code runs is for the command line to say."""
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key in _CODE_KEYS:
            raise UnsafeError(
                f"{source}: '{key}' names Python code to run, which a run file may not. Remove it and give "
                "--reward-function MODULE:FUNCTION on the command line."
            )
        _refuse_code(inner, source)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return `read_config(path, overrides).config`, and log its notes as warnings."""
    reading = read_config(path, overrides)
    for note in reading.notes:
        _LOG.warning("%s", note)
    return reading.config


def build_config(values: dict[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """Validate plain values with overrides applied; `values` itself is left alone.

    Raises:
        ConfigError: With one fault per wrong key or value.
    """
    values = deepcopy(values)
    faults: list[str] = []
    for override in overrides:
        fault = _apply_override(values, override)
        if fault is not None:
            faults.append(fault)
    try:
        config = RunConfig.model_validate(values, strict=True)
    except ValidationError as error:
        faults += _faults(error, values)
        raise ConfigError(faults) from None
    if faults:
        raise ConfigError(faults)
    return config


def config_to_yaml(config: RunConfig) -> str:
    """Return the whole configuration as YAML, defaults spelled out; `read_config` reads it back to an equal one."""
    return dump_document(config.model_dump(mode="json"))


def _apply_override(values: dict[str, Any], override: str) -> str | None:
    """Set one assignment in `values`; return the fault instead when it cannot be one."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or key.count(".") < 1 or not all(key.split(".")):
        return f"{override}: expected section.key=value, such as train.learning_rate=2e-4"
    field = field_of(key)
    if field is None:
        return _unknown(key, text)
    inner_key = key[len(field.key) + 1 :]
    if inner_key and not field.is_mapping:
        return _unknown(key, text)
    is_quoted = text[:1] in {"'", '"'}
    if field.takes_text_only and not is_quoted and text not in {"", "~", "null"} and not inner_key:
        value: object = text
    else:
        try:
            value = parse_document(text, field.key)
        except ConfigError as error:
            return " ".join(error.faults)
        if field.takes_text_or_list and isinstance(value, bool | int | float) and not inner_key:
            value = text
    target = values
    for step in (*field.section.split("."), *([field.name] if inner_key else [])):
        inner = target.get(step)
        if inner is not None and not isinstance(inner, dict) and step != field.name:
            return None  # a section that is no mapping is complained about when it is validated
        target[step] = dict(inner) if isinstance(inner, dict) else {}
        target = target[step]
    target[inner_key or field.name] = value
    return None


def _faults(error: ValidationError, values: dict[str, Any]) -> list[str]:
    """One sentence per faulty key: what is wrong, what was found, what is allowed."""
    by_key: dict[str, ErrorDetails] = {}
    for detail in error.errors(include_url=False):
        by_key.setdefault(_dotted(detail["loc"], values), detail)
    return [_sentence(key, detail, values) for key, detail in by_key.items()]


def _dotted(loc: tuple[int | str, ...], values: dict[str, Any]) -> str:
    """The key that the user wrote: pydantic's location without the names of union members."""
    names: list[str] = []
    here: object = values
    for step in loc:
        if isinstance(here, dict) and (step in here or len(names) < 2):
            here = here.get(step)
        elif isinstance(here, list) and isinstance(step, int) and step < len(here):
            here = here[step]
        else:
            continue
        names.append(str(step))
    return ".".join(names)


def _sentence(key: str, detail: ErrorDetails, values: dict[str, Any]) -> str:
    kind = detail["type"]
    if not key and kind == "value_error":
        return detail["msg"].removeprefix("Value error, ")  # sections that do not go together
    got = _show(detail["input"])
    field = field_of(key)
    if kind == "extra_forbidden" or kind == "invalid_key":
        return _unknown(key, got)
    if kind == "missing":
        what = f"{field.allowed}: {field.description}" if field else _missing_section(key)
        return f"{key}: required and not given; expected {what}"
    if field is None:
        if key in config_sections():
            if kind == "value_error":
                return f"{key}: {detail['msg'].removeprefix('Value error, ')}"
            names = ", ".join(config_sections()[key].model_fields)
            return f"{key}: expected a mapping of fields; got {got}; fields: {names}"
        return _unknown(key, got)
    reason = detail["msg"].removeprefix("Input ").removeprefix("String ").removeprefix("Value error, ")
    for technical, plain in (
        ("a valid string", "text"),
        ("a valid integer", "a whole number"),
        ("a valid number", "a number"),
    ):
        reason = reason.replace(technical, plain)
    is_bound = kind.startswith(("greater", "less", "string_pattern", "finite", "value_error"))
    hint = _yaml_hint(detail["input"], kind)
    is_inner = key != field.key
    return f"{key}: {reason if is_bound or is_inner else f'should be {field.allowed}'}; got {got}{hint}"


def _missing_section(key: str) -> str:
    required = [each.key for each in config_fields().values() if each.section == key and each.is_required]
    return f"a section with at least {', '.join(required)}" if required else "a value"


def _unknown(key: str, got: str) -> str:
    section = key.rpartition(".")[0]
    if key.partition(".")[0] == "sweep":
        return "sweep: this is a sweep file, not a run file; give it to `loratory sweep`, or name its sweep.base here"
    hint = suggest_key(key)
    allowed = ""
    if not hint:
        names = [each.name for each in config_fields().values() if each.section == section] or section_names()
        allowed = f" Allowed: {', '.join(names)}."
    what = "unknown key" if "." in key else "unknown section"
    return f"{key}: {what}; got {got}.{hint}{allowed}"


def _yaml_hint(value: object, kind: str) -> str:
    if isinstance(value, str) and kind in {"int_type", "float_type"} and _is_number(value):
        return "; write it without quotes"
    if isinstance(value, int | float) and not isinstance(value, bool) and kind in {"string_type", "literal_error"}:
        return "; put quotes around it to make it text"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _kind(value: object) -> str:
    names = {str: "text", list: "a list", int: "a number", float: "a number", bool: "a truth value"}
    return names.get(type(value), type(value).__name__)


def _show(value: object) -> str:
    """The value as YAML would write it, cut to a readable length."""
    if isinstance(value, str):
        text = repr(value)
    else:
        text = " ".join(dump_document(value).removesuffix("...\n").split()) if _is_plain(value) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float)
