"""The strict reader: any source to records, with nothing converted and every refusal placed.

Law: text that is trained on is, character for character, text that stands in the file. Whatever cannot be kept that
way is refused with file, line and field; refused rows are gathered and raised together, or counted when allowed.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from loratory.data.csv_source import csv_rows
from loratory.data.faults import FaultLog, RowFault
from loratory.data.json_source import SourceRow, json_lines, json_rows
from loratory.data.records import Origin, Record
from loratory.data.row_forms import RowForm, choose_form
from loratory.data.table_source import hub_fingerprint, hub_rows, is_hub_name, parquet_rows
from loratory.errors import DataError, suggest

_FILE_READERS = {".json": json_rows, ".jsonl": json_lines, ".csv": csv_rows, ".parquet": parquet_rows}


@dataclass(frozen=True, slots=True)
class ReadReport:
    """What became of a source's rows.

    Attributes:
        source: File or hub name as given.
        form: The row form used.
        rows_read: Rows looked at.
        rows_kept: Rows that became records.
        dropped: Reason -> number of rows refused for it.
        examples: Reason -> the first few places.
        control_character_rows: Kept rows with a NUL or other control character (text is left as it is).
    """

    source: str
    form: str
    rows_read: int
    rows_kept: int
    dropped: Mapping[str, int]
    examples: Mapping[str, tuple[str, ...]]
    control_character_rows: int

    def as_dict(self) -> dict[str, object]:
        """The report as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Records of one source, in file order, and the report about it."""

    records: tuple[Record, ...]
    report: ReadReport


def read_records(
    source: str,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    system: str | None = None,
    max_bad_rows: int = 0,
    limit: int | None = None,
    require_answer: bool = True,
) -> ReadResult:
    """Read a .json, .jsonl, .csv or .parquet file or a hub data set (`owner/name`, `owner/name:split`).

    Args:
        source: Path or hub name.
        format: Row form: auto, alpaca, prompt_completion or chat.
        columns: Our field name -> the source's column name.
        system: System text put before every conversation that has none.
        max_bad_rows: Bad rows that are skipped and counted; one more is an error.
        limit: Stop after this many kept rows.
        require_answer: Refuse rows without an answer (off for rows to predict).

    Raises:
        DataError: For a file that cannot be parsed, or more bad rows than allowed; names file, line and field.
        MissingExtraError: If the source needs a library that is not installed.
    """
    columns = dict(columns or {})
    form: RowForm | None = None
    faults = FaultLog()
    records: list[Record] = []
    seen: set[str] = set()
    rows_read = control_rows = 0
    for line, row in _source_rows(source):
        if limit is not None and len(records) >= limit:
            break
        rows_read += 1
        origin = Origin(source, line)
        try:
            if isinstance(row, RowFault):
                raise row
            if isinstance(row, Mapping):
                seen.update(row)
                form = form or choose_form(
                    row, name=format, columns=columns, system=system, require_answer=require_answer, file=str(origin)
                )
            if form is None:
                raise RowFault("row is not an object", "expected {field: text, …}")
            record = form.record(row, origin)
        except RowFault as fault:
            faults.add(origin, fault)
            continue
        records.append(record)
        control_rows += any(_has_control_character(turn.content) for turn in record.turns)
    if rows_read == 0:
        raise DataError(f"{source}: no rows. The file is empty or holds only a header.")
    faults.raise_above(max_bad_rows, rows_read=rows_read)
    _check_columns_seen(columns, seen, source)
    if not records:
        raise DataError(f"{source}: no usable row: all {rows_read} were refused ({dict(faults.counts)}).")
    report = ReadReport(
        source=source,
        form=form.name if form else format,
        rows_read=rows_read,
        rows_kept=len(records),
        dropped=dict(faults.counts),
        examples=faults.frozen_examples(),
        control_character_rows=control_rows,
    )
    return ReadResult(tuple(records), report)


def fingerprint(source: str) -> str:
    """SHA-256 (hex) of a file's bytes; for a hub data set, of its name and revision fingerprint.

    Raises:
        DataError: If the source does not exist.
    """
    path = Path(source)
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    if is_hub_name(source) and path.suffix.lower() not in _FILE_READERS:
        return hub_fingerprint(source)
    raise _missing(path, source)


def _source_rows(source: str) -> Iterator[SourceRow]:
    path = Path(source)
    kinds = ", ".join(_FILE_READERS)
    if path.is_dir():
        raise DataError(f"{source}: is a folder; give one file ({kinds}).")
    if path.is_file():
        reader = _FILE_READERS.get(path.suffix.lower())
        if reader is None:
            raise DataError(f"{source}: files of kind '{path.suffix or '(no ending)'}' are not read; one of {kinds}.")
        if path.stat().st_size == 0:
            raise DataError(f"{source}: the file is empty (0 bytes).")
        return reader(path, source)
    if is_hub_name(source) and path.suffix.lower() not in _FILE_READERS:
        return hub_rows(source)
    raise _missing(path, source)


def _missing(path: Path, source: str) -> DataError:
    folder = path.parent
    if not folder.is_dir():
        return DataError(f"{source}: no such file (there is no folder '{folder}').")
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in _FILE_READERS)
    held = f" '{folder}' holds: {', '.join(names[:8])}." if names else f" '{folder}' holds no data file."
    return DataError(f"{source}: no such file.{suggest(path.name, names)}{held}")


def _check_columns_seen(columns: Mapping[str, str], seen: set[str], source: str) -> None:
    """A mapped column that no row has is a typing error; for an optional field it would lose text silently."""
    for ours, column in columns.items():
        if column not in seen:
            raise DataError(
                f"data.columns.{ours}: no row of {source} has a column '{column}'; columns are "
                f"{', '.join(sorted(seen))}.{suggest(column, sorted(seen))}"
            )


def _has_control_character(text: str) -> bool:
    return not text.isprintable() and any((c < " " and c not in "\t\n\r") or c == "\x7f" for c in text)
