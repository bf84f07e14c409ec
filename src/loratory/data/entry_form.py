"""How a row of a registered data set becomes a record: LLaMA-Factory's alpaca and sharegpt forms.

As everywhere, text is taken over exactly, and what does not fit is a `RowFault`. Tool calls and results stay the text
they are; the tools a row offers stand at the end of its system text.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from loratory.data.dataset_info import DatasetEntry
from loratory.data.faults import RowFault, show
from loratory.data.judgement import margin, truth_value
from loratory.data.messages import checked_text, optional_text, text_field
from loratory.data.records import Origin, Record, Role, Turn

TOOLS_HEADING = "You have access to these tools, given as JSON:\n"
_NO_TOOLS = re.compile(r"\s*(\[\s*\])?\s*")


@dataclass(frozen=True, slots=True)
class EntryForm:
    """The form of one registered data set.

    Attributes:
        entry: The register's entry.
        system: System text for rows that have none.
        require_answer: Whether a row without an answer is a fault.
    """

    entry: DatasetEntry
    system: str | None
    require_answer: bool

    @property
    def name(self) -> str:
        """The form's name in reports."""
        return self.entry.formatting

    def record(self, row: object, origin: Origin) -> Record:
        """Turn one parsed row into a record.

        Raises:
            RowFault: If the row does not fit the form.
        """
        if not isinstance(row, Mapping):
            raise RowFault("row is not an object", f"got {show(row)}")
        fields: dict[str, str] = {}
        if self.entry.formatting == "alpaca":
            turns, fields = self._alpaca(row)
        else:
            turns = self._sharegpt(row)
        alternatives = (self._alternative(row, "chosen"), self._alternative(row, "rejected"))
        return Record(
            turns=self._with_system(turns, row),
            origin=origin,
            fields=fields,
            alternatives=alternatives if self.entry.is_ranking else (),
            label=self._label(row),
            margin=margin(row, self.entry.columns["margin"]) if "margin" in self.entry.columns else None,
        )

    def _with_system(self, turns: tuple[Turn, ...], row: Mapping[str, object]) -> tuple[Turn, ...]:
        system = self._optional(row, "system") or ""
        if turns[0].role == "system":
            system, turns = turns[0].content, turns[1:]
        if not system.strip():
            system = self.system or ""
        tools = self._optional(row, "tools") or ""
        if not _NO_TOOLS.fullmatch(tools):
            system = f"{system}\n\n{TOOLS_HEADING}{tools}" if system else f"{TOOLS_HEADING}{tools}"
        return (Turn("system", system), *turns) if system else turns

    def _alpaca(self, row: Mapping[str, object]) -> tuple[tuple[Turn, ...], dict[str, str]]:
        columns = self.entry.columns
        prompt = text_field(row, columns["prompt"])
        query = self._optional(row, "query") or ""
        asked = "\n".join(text for text in (prompt, query) if text)
        if not asked.strip():
            raise RowFault("empty prompt", field=columns["prompt"])
        turns = (*self._history(row), Turn("user", asked))
        fields = {"instruction": prompt, "input": query} if len(turns) == 1 else {}
        if self.entry.is_ranking:
            return turns, fields
        answer = self._optional(row, "response")
        if answer is not None and answer.strip():
            return (*turns, Turn("assistant", answer)), {**fields, "output": answer} if fields else {}
        if self.require_answer:
            column = columns.get("response")
            detail = f"got {show(answer)}" if column else f"the entry names no response column ({self.entry.place})"
            raise RowFault("empty answer", detail, field=column)
        return turns, fields

    def _history(self, row: Mapping[str, object]) -> tuple[Turn, ...]:
        column = self.entry.columns.get("history")
        history = row.get(column) if column else None
        if history is None:
            return ()
        if not _is_list(history):
            raise RowFault("not a list of exchanges", f"got {show(history)}", field=column)
        turns: list[Turn] = []
        for index, pair in enumerate(history):
            if not _is_list(pair) or len(pair) != 2:
                raise RowFault("not a pair of user and assistant text", f"got {show(pair)}", field=f"{column}[{index}]")
            turns.append(_turn("user", pair[0], f"{column}[{index}][0]"))
            turns.append(_turn("assistant", pair[1], f"{column}[{index}][1]"))
        return tuple(turns)

    def _sharegpt(self, row: Mapping[str, object]) -> tuple[Turn, ...]:
        column = self.entry.columns["messages"]
        if column not in row:
            raise RowFault("missing field", f"the row has {', '.join(map(str, row)) or 'no fields'}", field=column)
        messages = row[column]
        if not _is_list(messages) or not messages:
            raise RowFault("not a list of messages", f"got {show(messages)}", field=column)
        turns = tuple(self._message(message, f"{column}[{index}]") for index, message in enumerate(messages))
        self._check_order(turns, column)
        return turns

    def _message(self, message: object, place: str) -> Turn:
        tags = self.entry.tags
        if not isinstance(message, Mapping):
            raise RowFault("message is not an object", f"got {show(message)}", field=place)
        roles: dict[str, Role] = {
            tags["system_tag"]: "system",
            tags["user_tag"]: "user",
            tags["observation_tag"]: "tool",
            tags["assistant_tag"]: "assistant",
            tags["function_tag"]: "assistant",
        }
        role, content = tags["role_tag"], tags["content_tag"]
        for key in (role, content):
            if key not in message:
                raise RowFault(
                    "missing field", f"the message has {', '.join(map(str, message))}", field=f"{place}.{key}"
                )
        if message.get("tool_calls") is not None:
            raise RowFault("message key not supported", "'tool_calls' would be lost", field=place)
        if not isinstance(message[role], str) or message[role] not in roles:
            raise RowFault(
                "unknown role", f"got {show(message[role])}; allowed: {', '.join(roles)}", field=f"{place}.{role}"
            )
        return _turn(roles[message[role]], message[content], f"{place}.{content}")

    def _check_order(self, turns: tuple[Turn, ...], column: str) -> None:
        """A system message at most at the start, then user (or tool) and assistant in turn."""
        start = int(turns[0].role == "system")
        for index, turn in enumerate(turns[start:]):
            allowed = ("user", "tool") if index % 2 == 0 else ("assistant",)
            if turn.role not in allowed:
                raise RowFault(
                    "roles out of order",
                    f"{turn.role} message; allowed there: {' or '.join(allowed)}",
                    field=f"{column}[{start + index}]",
                )
        count = len(turns) - start
        if count == 0:
            raise RowFault("empty prompt", "only a system message", field=column)
        if self.entry.is_ranking and count % 2 == 0:
            raise RowFault("no open question", "before a pair, the last message must be the user's", field=column)
        if self.require_answer and not self.entry.is_ranking and count % 2 == 1:
            raise RowFault("no answer", "the last message must be the assistant's", field=column)

    def _alternative(self, row: Mapping[str, object], key: str) -> str:
        """The chosen or rejected answer of a pair."""
        if not self.entry.is_ranking:
            return ""
        column = self.entry.columns[key]
        if self.entry.formatting == "alpaca":
            text = text_field(row, column)
        else:
            if column not in row:
                raise RowFault("missing field", f"the row has {', '.join(map(str, row))}", field=column)
            turn = self._message(row[column], column)
            if turn.role != "assistant":
                raise RowFault("not an answer", f"a {turn.role} message", field=column)
            text = turn.content
        if not text.strip():
            raise RowFault("empty answer", f"got {show(text)}", field=column)
        return text

    def _label(self, row: Mapping[str, object]) -> bool | None:
        column = self.entry.columns.get("kto_tag")
        return None if column is None else truth_value(row, column)

    def _optional(self, row: Mapping[str, object], key: str) -> str | None:
        column = self.entry.columns.get(key)
        return optional_text(row, column) if column else None


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _turn(role: Role, content: object, place: str) -> Turn:
    text = checked_text(content, place)
    if not text.strip() and role != "system":
        raise RowFault("empty message", f"role {role}", field=place)
    return Turn(role, text)
