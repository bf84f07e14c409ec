"""The answers of all runs as one JSON value for the page; texts that repeat are stored once."""

import json
import re
from collections.abc import Sequence

from loratory.infer.predict import Prediction
from loratory.report.content import Column

MAX_CELLS = 400_000
MAX_ROWS = 5_000


def shown_rows(columns: Sequence[Column]) -> int:
    """How many rows fit into a page."""
    return min(len(columns[0].answers.rows), MAX_ROWS, max(100, MAX_CELLS // len(columns)))


def questions(rows: Sequence[Prediction]) -> list[str]:
    """Prompts less the template around them: what all prompts begin and end with, cut where a template's piece ends."""
    first, last = min(row.prompt for row in rows), max(row.prompt for row in rows)
    if first == last:
        return [row.prompt.strip() for row in rows]
    head = _rounded_down(first[: _num_alike(first, last)])
    ends = [row.prompt[head:][::-1] for row in rows]
    first, last = min(ends), max(ends)
    shared = first[: _num_alike(first, last)][::-1]
    start = re.search(r"[<\[\n]", shared)
    tail = len(shared) - start.start() if start else 0
    return [row.prompt[head : len(row.prompt) - tail].strip() for row in rows]


def _num_alike(first: str, second: str) -> int:
    return next((i for i, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), len(first))


def _rounded_down(shared: str) -> int:
    """Length of the shared text up to its last mark, line or tag."""
    return max((match.end() for match in re.finditer(r"[>\]\n]|: ", shared)), default=0)


def answers_json(columns: Sequence[Column]) -> str:
    """JSON that is safe inside a script element: no character of it can end the element or begin another.

    Args:
        columns: Answers to the same rows, at least one column.
    """
    num_rows = shown_rows(columns)
    places: dict[str, int] = {}

    def place(text: str) -> int:
        return places.setdefault(text, len(places))

    rows = columns[0].answers.rows
    content = {
        "questions": [place(question) for question in questions(rows)[:num_rows]],
        "labels": [place(row.label) for row in rows[:num_rows]],
        "columns": [
            {
                "title": column.title,
                "base": column.is_base,
                "rows": [place(row.predict) for row in column.answers.rows[:num_rows]],
            }
            for column in columns
        ],
    }
    content["texts"] = list(places)
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # A lone surrogate cannot be written as UTF-8; inside JSON it can be escaped.
    return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text)
