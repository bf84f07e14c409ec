"""From the configuration's `data` section to rows that the loop trains on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loratory.config import DataConfig
from loratory.data.length import fit_length
from loratory.data.reader import ReadReport, fingerprint, read_records
from loratory.data.records import Record
from loratory.data.split import split_validation
from loratory.data.templates import BoundTemplate
from loratory.engine.rows import Row
from loratory.errors import DataError
from loratory.objective.loss import Objective


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """Rows of a run.

    Attributes:
        train: Training rows, never empty.
        validation: Validation rows, possibly none.
        fingerprints: Role -> sha256 of the source.
        notes: Lines for the user: rows skipped, shortened or dropped.
    """

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    fingerprints: Mapping[str, str]
    notes: tuple[str, ...]


def prepare_rows(section: DataConfig, template: BoundTemplate, objective: Objective) -> PreparedRows:
    """Read, split and tokenise the rows.

    Raises:
        DataError: A file or row that cannot be used, rows too long under policy 'error', or nothing left to train on.
    """
    fingerprints = {"train": fingerprint(section.train)}
    notes: list[str] = []
    train, validation = _read_both(section, fingerprints, notes)
    train_rows = _rows(train, "training", section, template, objective, notes)
    if not train_rows:
        raise DataError(f"{section.train}: no training row is left. Raise data.cutoff_len or check the rows.")
    validation_rows = _rows(validation, "validation", section, template, objective, notes)
    return PreparedRows(tuple(train_rows), tuple(validation_rows), fingerprints, tuple(notes))


def _read_both(
    section: DataConfig, fingerprints: dict[str, str], notes: list[str]
) -> tuple[Sequence[Record], Sequence[Record]]:
    records = _read(section.train, section, notes, limit=section.max_samples)
    if section.validation is None:
        return split_validation(records, section.val_size)
    fingerprints["validation"] = fingerprint(section.validation)
    return records, _read(section.validation, section, notes, limit=None)


def _read(source: str, section: DataConfig, notes: list[str], *, limit: int | None) -> tuple[Record, ...]:
    result = read_records(
        source,
        format=section.format,
        columns=section.columns,
        system=section.system,
        max_bad_rows=section.max_bad_rows,
        limit=limit,
    )
    notes += _reading_notes(result.report)
    return result.records


def _reading_notes(report: ReadReport) -> list[str]:
    return [f"{report.source}: {count} rows skipped: {reason}" for reason, count in report.dropped.items()]


def _rows(
    records: Sequence[Record],
    role: str,
    section: DataConfig,
    template: BoundTemplate,
    objective: Objective,
    notes: list[str],
) -> list[Row]:
    if not records:
        return []
    made = [objective.sequences(record, template) for record in records]
    flat = [(index, sequence) for index, sequences in enumerate(made) for sequence in sequences]
    fitted = fit_length(
        [sequence for _, sequence in flat],
        cutoff_len=section.cutoff_len,
        truncation=section.truncation,
        origins=[records[index].origin for index, _ in flat],
    )
    counts = fitted.counts
    if counts.num_kept < counts.num_sequences or counts.num_truncated:
        notes.append(
            f"{role} rows against data.cutoff_len {section.cutoff_len}: {counts.num_truncated} lost the start of their "
            f"prompt ({counts.prompt_tokens_cut} tokens), {counts.num_dropped + counts.num_answer_too_long} dropped"
        )
    kept: dict[int, list[int]] = {}
    for position, original in enumerate(fitted.indices):
        kept.setdefault(flat[original][0], []).append(position)
    rows = []
    for index, positions in kept.items():
        if len(positions) == len(made[index]):  # a pair that lost one side is no pair
            sequences = tuple(fitted.sequences[position] for position in positions)
            rows.append(Row(sequences, str(records[index].origin), objective.count(sequences)))
    return rows
