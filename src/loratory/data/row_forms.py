"""Row forms: how the fields of one parsed row become a conversation.

Four forms: alpaca (instruction, input, output), prompt_completion (prompt, completion), chat (messages, or
conversations with from/value) and text (text, all of it trained). The first three may hold preference pairs (chosen
and rejected in place of the answer) or judged answers (a label beside it). Text is taken over exactly; what does not
fit is a `RowFault`, never a repair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from loratory.data.faults import RowFault, show
from loratory.data.judgement import (
    JUDGEMENT_FIELDS,
    Judgement,
    alternative,
    common_prompt,
    margin,
    recognise_judgement,
    truth_value,
)
from loratory.data.messages import messages, optional_text, text_field
from loratory.data.records import Origin, Record, Turn
from loratory.errors import DataError, suggest

FormName = Literal["alpaca", "prompt_completion", "chat", "text"]

FORM_FIELDS: dict[FormName, tuple[str, ...]] = {
    "alpaca": ("instruction", "input", "output", "system", *JUDGEMENT_FIELDS),
    "prompt_completion": ("prompt", "completion", "system", *JUDGEMENT_FIELDS),
    "chat": ("messages", "system", *JUDGEMENT_FIELDS),
    "text": ("text",),
}
_REQUIRED: dict[FormName, tuple[str, ...]] = {
    "alpaca": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
    "chat": ("messages",),
    "text": ("text",),
}
_ANSWERS = ("output", "completion")


@dataclass(frozen=True, slots=True)
class RowForm:
    """A row form with the file's own column names.

    Attributes:
        name: Which form.
        columns: Our field name -> the file's column name, complete for the form.
        system: System text for rows that have none.
        require_answer: Whether a row without an answer is a fault.
        judgement: Whether rows are pairs, or answers with a label.
    """

    name: FormName
    columns: Mapping[str, str]
    system: str | None
    require_answer: bool
    judgement: Judgement | None = None

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
        if self.judgement == "pair":
            return self._pair(row, origin, system)
        turns, fields = self._conversation(row)
        label = truth_value(row, self.columns["label"]) if self.judgement == "label" else None
        return Record(turns=_with_system(turns, system), origin=origin, fields=fields, label=label)

    def _pair(self, row: Mapping[str, object], origin: Origin, system: str | None) -> Record:
        prompt = replace(self, require_answer=False, columns={**self.columns, **dict.fromkeys(_ANSWERS, "")})
        chosen, rejected = (alternative(row, self.columns[name]) for name in ("chosen", "rejected"))
        if self.name == "chat" and not self.columns["messages"]:
            turns = common_prompt(chosen, rejected, self.columns["chosen"])
            fields: dict[str, str] = {}
            _check_order(turns, self.columns["chosen"], require_answer=False)
        else:
            turns, fields = prompt._conversation(row)
        if turns[-1].role == "assistant":
            raise RowFault("no open question", "before a pair, the last message must be the user's")
        return Record(
            turns=_with_system(turns, system),
            origin=origin,
            fields=fields,
            alternatives=(chosen[-1].content, rejected[-1].content),
            margin=margin(row, self.columns["margin"]),
        )

    def _conversation(self, row: Mapping[str, object]) -> tuple[tuple[Turn, ...], dict[str, str]]:
        if self.name == "chat":
            return _chat_turns(row, self.columns["messages"], require_answer=self.require_answer), {}
        if isinstance(row.get(self.columns.get("prompt", "")), list):
            return self._messages(row), {}
        return self._single_exchange(row)

    def _messages(self, row: Mapping[str, object]) -> tuple[Turn, ...]:
        """A prompt, and perhaps a completion, that are lists of messages."""
        turns = messages(row[self.columns["prompt"]], self.columns["prompt"])
        column = self.columns["completion"]
        if column and row.get(column) is not None:
            turns = (*turns, *messages(row[column], column))
        _check_order(turns, self.columns["prompt"], require_answer=self.require_answer)
        return turns

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
    judgement = recognise_judgement(row, columns) if form != "text" and isinstance(row, Mapping) else None
    if form == "text" and system:
        raise DataError("data.system: rows of plain text have no system prompt; leave it out.")
    complete = {field: columns.get(field, field) for field in FORM_FIELDS[form]}
    if form == "chat" and "messages" not in columns and "messages" not in seen and "conversations" in seen:
        complete["messages"] = "conversations"
    if judgement == "pair" and form == "chat" and complete["messages"] not in seen:
        complete["messages"] = ""  # the conversation stands in both answers
    return RowForm(form, complete, system, require_answer, judgement)


def _recognise(seen: Sequence[str], columns: Mapping[str, str], file: str) -> FormName:
    present = set(seen)
    if present.issuperset(columns.get(name, name) for name in ("chosen", "rejected")):
        return _recognise_pair(present, columns)
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


def _recognise_pair(present: set[str], columns: Mapping[str, str]) -> FormName:
    """By where the prompt stands; nowhere: whole conversations stand in chosen and rejected."""
    if "messages" in columns or present & {"messages", "conversations"}:
        return "chat"
    found: list[FormName] = [
        form
        for form in ("prompt_completion", "alpaca")
        if columns.get(_REQUIRED[form][0], _REQUIRED[form][0]) in present
    ]
    return found[0] if found else "chat"


def _with_system(turns: tuple[Turn, ...], system: str | None) -> tuple[Turn, ...]:
    return (Turn("system", system), *turns) if system and turns[0].role != "system" else turns


def _near_fields(name: str) -> list[str]:
    known = [field for fields in _REQUIRED.values() for field in fields]
    return [field for field in known if field in suggest(name, known)]


def _whole_text(row: Mapping[str, object], column: str) -> Turn:
    text = text_field(row, column)
    if not text.strip():
        raise RowFault("empty text", f"got {show(text)}", field=column)
    return Turn("assistant", text)


def _chat_turns(row: Mapping[str, object], column: str, *, require_answer: bool) -> tuple[Turn, ...]:
    if column not in row:
        raise RowFault("missing field", f"the row has {', '.join(map(str, row)) or 'no fields'}", field=column)
    turns = messages(row[column], column)
    _check_order(turns, column, require_answer=require_answer)
    return turns


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
