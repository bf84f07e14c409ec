"""Rows back into a file as they stood in theirs: the same fields, the same text, numbers digit for digit."""

import csv
import io
import json
from collections.abc import Iterable, Mapping

from loratory.data.faults import JsonNumber

FILE_KINDS = (".json", ".jsonl", ".csv")


def file_text(rows: Iterable[Mapping[str, object]], kind: str) -> str:
    """The text of a file of rows.

    Args:
        rows: Parsed rows, as a source gives them.
        kind: '.json' (an array, one row a line), '.jsonl' or '.csv'.
    """
    if kind == ".csv":
        return _csv_text(list(rows))
    lines = [value_text(row) for row in rows]
    if kind == ".jsonl":
        return "".join(f"{line}\n" for line in lines)
    return "[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n"


def value_text(value: object) -> str:
    """JSON text of a parsed value; a number keeps its digits."""
    if isinstance(value, JsonNumber):
        return value.digits
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {value_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(value_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _csv_text(rows: list[Mapping[str, object]]) -> str:
    stream = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return stream.getvalue()
