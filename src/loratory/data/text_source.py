"""Bytes to text: UTF-8 strict (a byte order mark is allowed), and the place of the first byte that is not."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from loratory.errors import DataError

MAX_ROW_BYTES = 30_000_000
"""Longest row that is accepted; a longer one is a broken file rather than a text to learn."""

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def numbered_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    r"""Yield (1-based line number, byte offset, bytes) per line; only "\n" ends a line, the mark is dropped.

    A line longer than `MAX_ROW_BYTES` is yielded cut to one byte more than that, so that memory stays bounded.
    """
    with path.open("rb") as stream:
        number = offset = 0
        while raw := stream.readline(MAX_ROW_BYTES + 1):
            number += 1
            length = len(raw)
            if number == 1 and raw.startswith(codecs.BOM_UTF8):
                yield number, len(codecs.BOM_UTF8), raw[len(codecs.BOM_UTF8) :]
            else:
                yield number, offset, raw
            while length and not raw.endswith(b"\n"):
                raw = stream.readline(MAX_ROW_BYTES + 1)
                if not raw:
                    break
                length += len(raw)
            offset += length


def decode_line(raw: bytes, file: str, line: int, offset: int) -> str:
    """Decode one line.

    Raises:
        DataError: With line and byte offset in the file, if the bytes are not UTF-8.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(_not_utf8(raw, file, line, offset, error)) from None


def read_text(path: Path, file: str) -> str:
    """The whole file as text, without the byte order mark.

    Raises:
        DataError: With line and byte offset, if the bytes are not UTF-8.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line_start = raw.rfind(b"\n", 0, error.start) + 1
        line = raw.count(b"\n", 0, error.start) + 1
        error.start -= line_start
        raise DataError(_not_utf8(raw[line_start:], file, line, line_start, error)) from None
    return text.removeprefix("\ufeff")


def _not_utf8(raw: bytes, file: str, line: int, offset: int, error: UnicodeDecodeError) -> str:
    what = f"{file}:{line}: not UTF-8 at byte {offset + error.start} of the file (0x{raw[error.start]:02x})"
    if line == 1 and raw.startswith(_UTF16_MARKS):
        return f"{what}: the file is UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 {file}"
    return f"{what}. Save the file as UTF-8 (for Western European text: iconv -f LATIN1 -t UTF-8 {file})."
