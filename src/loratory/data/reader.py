"""The strict reader: any source to records, with nothing converted and every refusal placed.

Law: text that is trained on is, character for character, text that stands in the file. Whatever cannot be kept that
way is refused with file, line and field; refused rows are gathered and raised together, or counted when allowed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from loratory.config import DataConfig
from loratory.data.entry_form import EntryForm
from loratory.data.faults import FaultLog, RowFault
from loratory.data.records import Record
from loratory.data.row_forms import RowForm, choose_form
from loratory.data.sources import find_source
from loratory.errors import DataError, suggest


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
    dataset_dir: str | None = None,
) -> ReadResult:
    """Read one source: a file, an entry of a `dataset_info.json`, or a hub data set.

    Args:
        source: Path or name, as `loratory.data.sources.find_source` takes it.
        format: Row form: auto, alpaca, prompt_completion or chat. A registered entry has its own.
        columns: Our field name -> the source's column name. A registered entry has its own.
        system: System text put before every conversation that has none.
        max_bad_rows: Bad rows that are skipped and counted; one more is an error.
        limit: Stop after this many kept rows.
        require_answer: Refuse rows without an answer (off for rows to predict).
        dataset_dir: Folder with a `dataset_info.json` whose entries are known by name.

    Raises:
        DataError: For a source that is not there or cannot be parsed, or more bad rows than allowed; names file, line
            and field.
        MissingExtraError: If the source needs a library that is not installed.
    """
    found = find_source(source, dataset_dir=dataset_dir)
    columns = dict(columns or {})
    form: RowForm | EntryForm | None = None
    num_samples = None
    if found.entry is not None:
        form, columns = EntryForm(found.entry, system, require_answer), {}
        num_samples = found.entry.num_samples
    stop_after = limit if num_samples is None else None  # a sample is drawn from all rows
    faults = FaultLog()
    records: list[Record] = []
    seen: set[str] = set()
    rows_read = control_rows = 0
    for origin, row in found.rows():
        if stop_after is not None and len(records) >= stop_after:
            break
        rows_read += 1
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
        control_rows += any(_has_control_character(text) for text in _texts(record))
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
    if num_samples is not None:
        records = _sampled(records, num_samples)[:limit]
    return ReadResult(tuple(records), report)


def read_section_rows(
    source: str, section: DataConfig, *, limit: int | None = None, require_answer: bool = True
) -> ReadResult:
    """Read a source as a run's data section says; see `read_records`."""
    return read_records(
        source,
        format=section.format,
        columns=section.columns,
        system=section.system,
        max_bad_rows=section.max_bad_rows,
        limit=limit,
        require_answer=require_answer,
        dataset_dir=section.dataset_dir,
    )


def fingerprint(source: str, *, dataset_dir: str | None = None) -> str:
    """SHA-256 (hex) of a file's bytes; of a hub data set's name and revision; of an entry's files and definition.

    Raises:
        DataError: If the source does not exist.
    """
    return find_source(source, dataset_dir=dataset_dir).fingerprint()


def _sampled(records: Sequence[Record], num_samples: int) -> list[Record]:
    """As many records as asked for, chosen by content hash, in file order; all of them again where more are asked."""
    repeats, rest = divmod(num_samples, len(records))
    texts = ["\x1f".join(_texts(record)).encode("utf-8", "surrogatepass") for record in records]
    order = sorted(range(len(records)), key=lambda index: hashlib.sha256(texts[index]).digest())
    return [*(list(records) * repeats), *(records[index] for index in sorted(order[:rest]))]


def _texts(record: Record) -> list[str]:
    return [*(turn.content for turn in record.turns), *record.alternatives]


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
