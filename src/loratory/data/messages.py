"""Values of a row as text and as messages, taken over exactly or refused with their place."""

from collections.abc import Mapping, Sequence

from loratory.data.faults import RowFault, show
from loratory.data.records import Role, Turn
from loratory.errors import suggest

_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
}
_UNSUPPORTED_KEYS = ("tool_calls", "function_call", "tool_call_id", "weight", "train", "reasoning_content", "thinking")


def text_field(row: Mapping[str, object], column: str) -> str:
    """The text in a column that must be there.

    Raises:
        RowFault: If the column is missing or does not hold text.
    """
    if column not in row:
        ours = [name for name in row if isinstance(name, str)]
        near = suggest(column, ours)
        raise RowFault(
            "missing field",
            f"the row has {', '.join(ours) or 'no fields'}.{near} Map other names with data.columns",
            field=column,
        )
    return checked_text(row[column], column)


def optional_text(row: Mapping[str, object], column: str) -> str | None:
    """The text in a column, or None where it is missing or null.

    Raises:
        RowFault: If the column holds something else.
    """
    value = row.get(column)
    return None if value is None else checked_text(value, column)


def checked_text(value: object, field: str) -> str:
    """The value if it is text that UTF-8 can write.

    Raises:
        RowFault: Otherwise; names the field.
    """
    if not isinstance(value, str):
        raise RowFault("not text", f"got {show(value)}; write it in quotes to have it as text", field=field)
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowFault(
                "not valid Unicode",
                f"lone surrogate \\u{ord(value[error.start]):04x} at character {error.start + 1}",
                field=field,
            ) from None
    return value


def messages(value: object, column: str) -> tuple[Turn, ...]:
    """A list of messages, at least one.

    Raises:
        RowFault: It is none, or a message does not fit.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise RowFault("not a list of messages", f"got {show(value)}", field=column)
    return tuple(message_turn(message, f"{column}[{index}]") for index, message in enumerate(value))


def message_turn(message: object, place: str) -> Turn:
    """One message: {role, content}, or {from, value}.

    Raises:
        RowFault: It is none, is empty, or has a role or a key that is not known.
    """
    if not isinstance(message, Mapping):
        raise RowFault("message is not an object", f"got {show(message)}", field=place)
    for key in _UNSUPPORTED_KEYS:
        if message.get(key) is not None:
            raise RowFault("message key not supported", f"'{key}' would be lost", field=place)
    role_key, text_key = ("role", "content") if "role" in message else ("from", "value")
    role = message.get(role_key)
    if not isinstance(role, str) or role not in _ROLES:
        allowed = ", ".join(_ROLES)
        raise RowFault("unknown role", f"got {show(role)}; allowed: {allowed}", field=f"{place}.{role_key}")
    if text_key not in message:
        raise RowFault("missing field", f"the message has {', '.join(map(str, message))}", field=f"{place}.{text_key}")
    content = checked_text(message[text_key], f"{place}.{text_key}")
    if not content.strip() and role != "system":
        raise RowFault("empty message", f"role {role}", field=f"{place}.{text_key}")
    return Turn(_ROLES[role], content)
