"""Rows of JSON and JSON Lines files, each with the line where it starts, nothing converted.

The standard decoder does the parsing; this module adds what it leaves out: places, duplicate keys, NaN, rows that
end with the file, several rows at fault in one pass.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from loratory.data.faults import JsonNumber, RowFault
from loratory.data.text_source import MAX_ROW_BYTES, decode_line, numbered_lines, read_text
from loratory.errors import DataError

_SPACE = re.compile(r"[ \t\r\n]*")

SourceRow = tuple[int, object | RowFault]
"""1-based line of the row's start, and the parsed value or what is wrong with it."""


class _RowDecoder:
    """The standard JSON decoder, noting duplicate keys and non-JSON constants instead of accepting them."""

    def __init__(self) -> None:
        self._odd: list[str] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._pairs, parse_constant=self._constant, parse_int=JsonNumber, parse_float=JsonNumber
        )

    def _pairs(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [key for key, _ in pairs]
            self._odd.append(f"key {next(k for k in keys if keys.count(k) > 1)!r} stands twice in one object")
        return result

    def _constant(self, name: str) -> None:
        self._odd.append(f"{name} is not JSON")

    def decode(self, text: str, start: int) -> tuple[object | RowFault, int]:
        """Parse one value at `start`; a `json.JSONDecodeError` or `RecursionError` passes through."""
        self._odd.clear()
        value, end = self._decoder.raw_decode(text, start)
        if end - start > MAX_ROW_BYTES:
            return RowFault("row too large", f"{end - start} characters, limit {MAX_ROW_BYTES}"), end
        if self._odd:
            kind = "duplicate key" if "twice" in self._odd[0] else "not valid JSON"
            return RowFault(kind, self._odd[0]), end
        return value, end


def json_lines(path: Path, file: str) -> Iterator[SourceRow]:
    """Stream the rows of a JSON Lines file; blank lines are passed over.

    Raises:
        DataError: If a line is not UTF-8.
    """
    decoder = _RowDecoder()
    for line_number, offset, raw in numbered_lines(path):
        if len(raw) > MAX_ROW_BYTES:
            yield line_number, RowFault("row too large", f"over {MAX_ROW_BYTES} bytes on one line")
            continue
        text = decode_line(raw, file, line_number, offset).strip(" \t\r\n")
        if text:
            yield line_number, _line_value(decoder, text)


def _line_value(decoder: _RowDecoder, text: str) -> object | RowFault:
    try:
        value, end = decoder.decode(text, 0)
    except json.JSONDecodeError as error:
        return RowFault("not valid JSON", f"{error.msg} at character {error.pos + 1} of the line")
    except RecursionError:
        return RowFault("not valid JSON", "nested too deeply")
    if not isinstance(value, RowFault) and text[end:].strip():
        return RowFault("not valid JSON", f"more text after the object, at character {end + 1}: one object per line")
    return value


def json_rows(path: Path, file: str) -> Iterator[SourceRow]:
    """Rows of a `.json` file: an array of objects, or one object per line (recognised by its second object).

    Raises:
        DataError: If the file is neither, is cut off, or has a syntax error; with the line of the element at fault.
    """
    text = read_text(path, file)
    start = _skip(text, 0)
    if start == len(text):
        raise DataError(f"{file}: the file is empty. Expected a JSON array of row objects: [{{…}}, {{…}}].")
    if text[start] == "[":
        yield from _array_elements(text, start, file)
    elif _is_object_per_line(text, start):
        yield from json_lines(path, file)
    else:
        raise DataError(_not_an_array(text, start, file))


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _is_object_per_line(text: str, start: int) -> bool:
    """Whether the first line is a whole object and another object follows on a later line."""
    if text[start] != "{":
        return False
    end_of_line = text.find("\n", start)
    if end_of_line < 0 or not text.startswith("{", _skip(text, end_of_line)):
        return False
    return isinstance(_line_value(_RowDecoder(), text[start:end_of_line].strip()), dict | RowFault) and text[
        start:end_of_line
    ].rstrip().endswith("}")


def _not_an_array(text: str, start: int, file: str) -> str:
    line = text.count("\n", 0, start) + 1
    expected = "Expected a JSON array of row objects: [{…}, {…}]."
    try:
        value, end = _RowDecoder().decode(text, start)
    except json.JSONDecodeError as error:
        at = text.count("\n", 0, error.pos) + 1
        return f"{file}:{at}: not valid JSON: {error.msg} (the value starts on line {line}). {expected}"
    except RecursionError:
        return f"{file}:{line}: not valid JSON: nested too deeply. {expected}"
    if isinstance(value, RowFault):
        return f"{file}:{line}: {value.reason}: {value.detail}. {expected}"
    if _skip(text, end) < len(text):
        return (
            f"{file}:{text.count(chr(10), 0, end) + 1}: more text after the first value. {expected} "
            "For one object per line, put each object on a line of its own and name the file .jsonl."
        )
    if not isinstance(value, dict):
        return f"{file}:{line}: the file holds a single value that is not an array. {expected}"
    inner = [key for key, entry in value.items() if isinstance(entry, list) and entry and isinstance(entry[0], dict)]
    if inner:
        return (
            f"{file}:{line}: the rows are wrapped in an object under {inner[0]!r}. "
            f"Keep only the array that stands there: jq '.{inner[0]}' {file} > rows.json"
        )
    if value and all(isinstance(entry, list) for entry in value.values()):
        return (
            f"{file}:{line}: one object of columns ({', '.join(list(value)[:6])}), not rows. {expected} "
            "Write one object per row, e.g. with pandas: to_json(path, orient='records', lines=True)."
        )
    return f"{file}:{line}: one object with fields {', '.join(list(value)[:6]) or '(none)'}, not an array. {expected}"


def _array_elements(text: str, start: int, file: str) -> Iterator[SourceRow]:
    decoder = _RowDecoder()
    position, line, counted = _skip(text, start + 1), 1, 0
    if text.startswith("]", position):
        _refuse_rest(text, position + 1, file)
        return
    while True:
        line += text.count("\n", counted, position)
        counted = position
        if position >= len(text):
            last = text.count("\n", 0, len(text.rstrip())) + 1
            raise DataError(f"{file}:{last}: the file ends inside the array; it looks cut off (no closing ']').")
        if text[position] == "]":
            raise DataError(f"{file}:{line}: a comma stands before the closing ']'. Remove the trailing comma.")
        try:
            value, position = decoder.decode(text, position)
        except json.JSONDecodeError as error:
            raise DataError(_element_error(text, error, file, line)) from None
        except RecursionError:
            raise DataError(f"{file}:{line}: not valid JSON: the row that starts here is nested too deeply.") from None
        yield line, value
        position = _skip(text, position)
        if text.startswith("]", position):
            _refuse_rest(text, position + 1, file)
            return
        if position < len(text) and text[position] != ",":
            at = text.count("\n", 0, position) + 1
            raise DataError(f"{file}:{at}: expected ',' or ']' after the row of line {line}, got {text[position]!r}.")
        position = _skip(text, position + 1)


def _element_error(text: str, error: json.JSONDecodeError, file: str, line: int) -> str:
    at = text.count("\n", 0, error.pos) + 1
    place = f"column {error.pos - text.rfind(chr(10), 0, error.pos)} of line {at}"
    cut = _skip(text, error.pos) >= len(text) or "Unterminated" in error.msg
    hint = " The file looks cut off." if cut else ""
    return f"{file}:{line}: not valid JSON in the row that starts here: {error.msg} at {place}.{hint}"


def _refuse_rest(text: str, position: int, file: str) -> None:
    rest = _skip(text, position)
    if rest < len(text):
        raise DataError(f"{file}:{text.count(chr(10), 0, rest) + 1}: more text after the array's closing ']'.")
