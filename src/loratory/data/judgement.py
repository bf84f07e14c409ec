"""What people said about answers: which of two is better, or whether one is good."""

import math
from collections.abc import Mapping
from typing import Literal

from loratory.data.faults import JsonNumber, RowFault, show
from loratory.data.messages import checked_text, message_turn, messages
from loratory.data.records import Turn

Judgement = Literal["pair", "label"]

JUDGEMENT_FIELDS = ("chosen", "rejected", "margin", "label")


def recognise_judgement(row: Mapping[str, object], columns: Mapping[str, str]) -> Judgement | None:
    """What a source's first row shows: chosen and rejected make a pair; a label counts when it is true or false."""
    names = {field: columns.get(field, field) for field in JUDGEMENT_FIELDS}
    if names["chosen"] in row and names["rejected"] in row:
        return "pair"
    is_label = "label" in columns or isinstance(row.get(names["label"]), bool)
    return "label" if is_label else None


def alternative(row: Mapping[str, object], column: str) -> tuple[Turn, ...]:
    """An answer as text, message or messages; with more than one message the earlier ones are its prompt.

    Raises:
        RowFault: It is missing, empty or not the assistant's.
    """
    if column not in row:
        raise RowFault("missing field", f"the row has {', '.join(map(str, row))}", field=column)
    value = row[column]
    if isinstance(value, Mapping):
        turns: tuple[Turn, ...] = (message_turn(value, column),)
    elif isinstance(value, list):
        turns = messages(value, column)
    else:
        turns = (Turn("assistant", checked_text(value, column)),)
    if turns[-1].role != "assistant":
        raise RowFault("not an answer", f"a {turns[-1].role} message", field=column)
    if not turns[-1].content.strip():
        raise RowFault("empty answer", f"got {show(turns[-1].content)}", field=column)
    return turns


def common_prompt(chosen: tuple[Turn, ...], rejected: tuple[Turn, ...], column: str) -> tuple[Turn, ...]:
    """The conversation in front of both answers.

    Raises:
        RowFault: There is none, or they do not share it.
    """
    if len(chosen) < 2:
        raise RowFault(
            "empty prompt", "the row has no prompt, and its answers are no whole conversations", field=column
        )
    if chosen[:-1] != rejected[:-1]:
        raise RowFault("two prompts", "chosen and rejected conversation differ before their last message", field=column)
    return chosen[:-1]


def margin(row: Mapping[str, object], column: str) -> float | None:
    """How far apart a pair's scores should at least be; None where the row does not say.

    Raises:
        RowFault: It is not a finite number.
    """
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, JsonNumber):
        value = float(value.digits)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowFault("not a number", f"got {show(value)}", field=column)
    return float(value)


def truth_value(row: Mapping[str, object], column: str) -> bool:
    """Whether an answer is a good one.

    Raises:
        RowFault: The value is not true or false.
    """
    value = row.get(column)
    if not isinstance(value, bool):
        raise RowFault("not a truth value", f"got {show(value)}; allowed: true, false", field=column)
    return value
