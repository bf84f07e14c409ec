"""Turn templates from YAML files: the keys of `TurnTemplate`, checked all at once."""

from pathlib import Path

from loratory.config.document import read_document
from loratory.data.turn_template import TURN_TEMPLATE_KEYS, TurnTemplate
from loratory.errors import ConfigError, TemplateError, suggest

_REQUIRED = ("user", "assistant", "stop")
_OTHER_KINDS = {"is_system_in_user": "true or false", "control_tokens": "a list of texts"}


def read_turn_template(path: Path) -> TurnTemplate:
    """Read a turn template.

    Raises:
        TemplateError: If the file is missing or not YAML, or a key is missing, unknown or of the wrong kind.
        UnsafeError: If the file would build objects or expand without bounds.
    """
    try:
        values = read_document(path)
    except ConfigError as error:
        raise TemplateError(f"data.template: {error}") from None
    if not isinstance(values, dict):
        raise TemplateError(f"data.template: '{path}' must hold a mapping with {', '.join(_REQUIRED)}")
    faults = [f"missing key '{key}'" for key in _REQUIRED if key not in values]
    for key, value in values.items():
        if key not in TURN_TEMPLATE_KEYS:
            faults.append(f"unknown key '{key}'{suggest(str(key), TURN_TEMPLATE_KEYS)}")
        elif not _is_of_kind(key, value):
            faults.append(f"'{key}' is not {_OTHER_KINDS.get(key, 'text')}")
    if faults:
        raise TemplateError(
            f"data.template: '{path}': {'; '.join(faults)}. Keys: {', '.join(TURN_TEMPLATE_KEYS)}; needed are "
            f"{', '.join(_REQUIRED)}."
        )
    if "control_tokens" in values:
        values["control_tokens"] = tuple(values["control_tokens"])
    try:
        return TurnTemplate(**{"description": "", **values})
    except TemplateError as error:
        raise TemplateError(f"data.template: '{path}': {error}") from None


def _is_of_kind(key: str, value: object) -> bool:
    if key == "is_system_in_user":
        return isinstance(value, bool)
    if key == "control_tokens":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, str)
