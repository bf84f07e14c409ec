"""Row forms: how the fields of one parsed row become a conversation.

Four forms: alpaca (instruction, input, output), prompt_completion (prompt, completion), chat (messages, or
conversations with from/value) and text (text, all of it trained). Text is taken over exactly; what does not fit is a
`RowFault`, never a repair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from loratory.data.faults import RowFault, show
from loratory.data.records import Origin, Record, Role, Turn
from loratory.errors import DataError, suggest

FormName = Literal["alpaca", "prompt_completion", "chat", "text"]

FORM_FIELDS: dict[FormName, tuple[str, ...]] = {
    "alpaca": ("instruction", "input", "output", "system"),
    "prompt_completion": ("prompt", "completion", "system"),
    "chat": ("messages", "system"),
    "text": ("text",),
}
_REQUIRED: dict[FormName, tuple[str, ...]] = {
    "alpaca": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
    "chat": ("messages",),
    "text": ("text",),
}
_ANSWERS = ("output", "completion")
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
}
_UNSUPPORTED_KEYS = ("tool_calls", "function_call", "tool_call_id", "weight", "train", "reasoning_content", "thinking")


@dataclass(frozen=True, slots=True)
class RowForm:
    """A row form with the file's own column names.

    Attributes:
        name: Which form.
        columns: Our field name -> the file's column name, complete for the form.
        system: System text for rows that have none.
        require_answer: Whether a row without an answer is a fault.
    """

    name: FormName
    columns: Mapping[str, str]
    system: str | None
    require_answer: bool

    def record(self, row: object, origin: Origin) -> Record:
        """Turn one parsed row into a record.

        Raises:
            RowFault: If the row does not fit the form.
        """
        if not isinstance(row, Mapping):
            raise RowFault("row is not an object", f"got {show(row)}")
        if self.name == "text":
            return Record(turns=(_whole_text(row, self.columns["text"]),), origin=origin)
        system = optional_text(row, self.columns["system"])
        if system is None or not system.strip():
            system = self.system
        if self.name == "chat":
            turns = _chat_turns(row, self.columns["messages"], require_answer=self.require_answer)
            fields: dict[str, str] = {}
        else:
            turns, fields = self._single_exchange(row)
        if system and turns[0].role != "system":
            turns = (Turn("system", system), *turns)
        return Record(turns=turns, origin=origin, fields=fields)

    def _single_exchange(self, row: Mapping[str, object]) -> tuple[tuple[Turn, ...], dict[str, str]]:
        ask, answer = _REQUIRED[self.name]
        fields = {ask: text_field(row, self.columns[ask])}
        if self.name == "alpaca":
            fields["input"] = optional_text(row, self.columns["input"]) or ""
        user = "\n".join(text for text in (fields[ask], fields.get("input", "")) if text)
        if not user.strip():
            raise RowFault("empty prompt", field=self.columns[ask])
        turns: tuple[Turn, ...] = (Turn("user", user),)
        column = self.columns[answer]
        reply = text_field(row, column) if self.require_answer else optional_text(row, column)
        if reply is not None and reply.strip():
            fields[answer] = reply
            turns = (*turns, Turn("assistant", reply))
        elif self.require_answer:
            raise RowFault("empty answer", f"got {show(reply)}", field=column)
        return turns, fields


def choose_form(
    row: object,
    *,
    name: str,
    columns: Mapping[str, str],
    system: str | None,
    require_answer: bool,
    file: str,
) -> RowForm:
    """The row form of a source: the one asked for, or recognised from its first row's fields.

    Args:
        row: The first parsed row.
        name: A form's name, or 'auto'.
        columns: Our field name -> the file's column name, as configured.
        system: System text for rows that have none.
        require_answer: Whether a row without an answer is a fault.
        file: The source's name, for errors.

    Raises:
        DataError: If no form fits or two do, or `columns` names a field that the form does not have.
    """
    seen = list(row) if isinstance(row, Mapping) else []
    form = cast(FormName, name) if name != "auto" else _recognise(seen, columns, file)
    if form not in FORM_FIELDS:
        raise DataError(f"data.format: '{name}' is unknown; one of auto, {', '.join(FORM_FIELDS)}.")
    for ours in columns:
        if ours not in FORM_FIELDS[form]:
            raise DataError(
                f"data.columns: '{ours}' is not a field of {form} rows; fields are {', '.join(FORM_FIELDS[form])}."
                f"{suggest(ours, FORM_FIELDS[form])} Write our field first, then the file's column: "
                "{output: answer}."
            )
    if form == "text" and system:
        raise DataError("data.system: rows of plain text have no system prompt; leave it out.")
    complete = {field: columns.get(field, field) for field in FORM_FIELDS[form]}
    if form == "chat" and "messages" not in columns and "messages" not in seen and "conversations" in seen:
        complete["messages"] = "conversations"
    return RowForm(form, complete, system, require_answer)


def _recognise(seen: Sequence[str], columns: Mapping[str, str], file: str) -> FormName:
    present = set(seen)
    keys: dict[FormName, tuple[str, ...]] = {
        form: tuple(columns.get(field, field) for field in fields) for form, fields in _REQUIRED.items()
    }
    if "messages" not in columns and "conversations" in present and "messages" not in present:
        keys["chat"] = ("conversations",)
    if len(present) > 1 and "text" not in columns:
        del keys["text"]  # beside other fields it may be a question, or be made of them
    whole = [form for form, needed in keys.items() if present.issuperset(needed)]
    if len(whole) > 1:
        raise DataError(
            f"{file}: the first row has fields {', '.join(seen)}, which fit {' and '.join(whole)}. Set data.format."
        )
    if whole:
        return whole[0]
    begun = [form for form, needed in keys.items() if needed[0] in present]
    if len(begun) == 1:
        return begun[0]
    nearest = next((f" Did you mean '{n}' by '{s}'?" for s in seen for n in _near_fields(s)), "")
    raise DataError(
        f"{file}: cannot tell the row form: the first row has fields {', '.join(seen) or '(none)'}. Known forms: "
        "alpaca (instruction, input, output), prompt_completion (prompt, completion), chat (messages), "
        "text (one text, and no other field unless data.format is text)."
        f"{nearest} Other names are mapped with data.columns, e.g. {{instruction: question, output: answer}}."
    )


def _near_fields(name: str) -> list[str]:
    known = [field for fields in _REQUIRED.values() for field in fields]
    return [field for field in known if field in suggest(name, known)]


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


def _whole_text(row: Mapping[str, object], column: str) -> Turn:
    text = text_field(row, column)
    if not text.strip():
        raise RowFault("empty text", f"got {show(text)}", field=column)
    return Turn("assistant", text)


def _chat_turns(row: Mapping[str, object], column: str, *, require_answer: bool) -> tuple[Turn, ...]:
    if column not in row:
        raise RowFault("missing field", f"the row has {', '.join(map(str, row)) or 'no fields'}", field=column)
    messages = row[column]
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise RowFault("not a list of messages", f"got {show(messages)}", field=column)
    turns = tuple(_turn(message, f"{column}[{index}]") for index, message in enumerate(messages))
    _check_order(turns, column, require_answer=require_answer)
    return turns


def _turn(message: object, place: str) -> Turn:
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


def _check_order(turns: tuple[Turn, ...], column: str, *, require_answer: bool) -> None:
    follows: dict[str, tuple[str, ...]] = {
        "": ("system", "user"),
        "system": ("user",),
        "user": ("assistant",),
        "assistant": ("user", "tool"),
        "tool": ("assistant", "tool"),
    }
    before = ""
    for index, turn in enumerate(turns):
        if turn.role not in follows[before]:
            raise RowFault(
                "roles out of order",
                f"{turn.role} after {before or 'the start'}; allowed there: {', '.join(follows[before])}",
                field=f"{column}[{index}]",
            )
        before = turn.role
    if require_answer and before != "assistant":
        raise RowFault("no answer", f"the last message is the {before}'s, it must be the assistant's", field=column)
    if before == "system":
        raise RowFault("empty prompt", "only a system message", field=column)
