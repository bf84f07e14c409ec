"""Rows of a CSV file: every cell stays the text it is, every row has exactly the header's cells."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loratory.data.faults import RowFault
from loratory.data.json_source import SourceRow
from loratory.data.text_source import MAX_ROW_BYTES, decode_line, numbered_lines
from loratory.errors import DataError


def csv_rows(path: Path, file: str) -> Iterator[SourceRow]:
    """Stream the rows of a comma-separated file with a header line, each with the line it starts on.

    Raises:
        DataError: If there is no header, a column name stands twice, another separator is used, a quote is never
            closed, or a line is not UTF-8.
    """
    reader = csv.reader(_lines(path, file), strict=True)
    start = 1
    with _field_limit(MAX_ROW_BYTES):
        try:
            header = _header(next(reader, None), file)
            start = reader.line_num + 1
            for cells in reader:
                if cells:
                    yield start, _row(header, cells)
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{file}:{start}: not valid CSV in the row that starts here: {_explained(str(error))}."
            ) from None


def _lines(path: Path, file: str) -> Iterator[str]:
    for number, offset, raw in numbered_lines(path):
        if len(raw) > MAX_ROW_BYTES:
            raise DataError(f"{file}:{number}: row too large: over {MAX_ROW_BYTES} bytes on one line.")
        yield decode_line(raw, file, number, offset)


def _explained(fault: str) -> str:
    if fault == "unexpected end of data":
        return "a quoted field is opened and never closed"
    if fault.startswith("new-line character seen in unquoted field"):
        return "a bare carriage return ends a line; save with LF or CRLF line ends"
    return fault


@contextmanager
def _field_limit(limit: int) -> Iterator[None]:
    """Raise the csv module's process-wide field limit while reading, and put it back."""
    before = csv.field_size_limit(limit)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _header(cells: list[str] | None, file: str) -> list[str]:
    if not cells:
        raise DataError(f"{file}: the file is empty. The first line must name the columns.")
    twice = sorted({name for name in cells if cells.count(name) > 1})
    if twice:
        raise DataError(f"{file}:1: column {twice[0]!r} stands {cells.count(twice[0])} times in the header.")
    if len(cells) == 1:
        for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if separator in cells[0]:
                raise DataError(
                    f"{file}:1: one column named {cells[0]!r}: the file is separated by {name}. Save it with commas."
                )
    return cells


def _row(header: list[str], cells: list[str]) -> object | RowFault:
    if len(cells) != len(header):
        return RowFault("wrong number of cells", f"{len(cells)} cells, the header has {len(header)}")
    return dict(zip(header, cells, strict=True))
