"""From the configuration's `data` section to rows that the loop trains on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loratory.config import DataConfig
from loratory.data.length import fit_length
from loratory.data.reader import ReadReport, fingerprint, read_section_rows
from loratory.data.records import Record
from loratory.data.sequence import TokenSequence
from loratory.data.sources import source_names
from loratory.data.split import split_validation
from loratory.data.templates import BoundTemplate
from loratory.engine.mixture import Mixture
from loratory.errors import DataError
from loratory.objective.loss import Objective
from loratory.objective.row import Row, UnusableRowError
from loratory.objective.sampled import SampledObjective


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """Rows of a run.

    Attributes:
        train: Training rows, never empty; the rows of several sources one source after the other.
        validation: Validation rows, possibly none.
        source_sizes: Training rows of each source.
        fingerprints: Role -> sha256 of the source.
        notes: Lines for the user: rows skipped, shortened or dropped.
        mixture: Which rows an epoch has when sources are mixed by weight; None: all of them once.
    """

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    source_sizes: tuple[int, ...]
    fingerprints: Mapping[str, str]
    notes: tuple[str, ...]
    mixture: Mixture | None = None


def data_fingerprints(section: DataConfig) -> dict[str, str]:
    """Role -> sha256 of each source: 'train', or 'train.1', 'train.2', … where there are several; 'validation' alike.

    Raises:
        DataError: A source does not exist.
    """
    prints: dict[str, str] = {}
    for role, value in (("train", section.train), ("validation", section.validation)):
        names = source_names(value) if value is not None else ()
        for number, name in enumerate(names, start=1):
            key = role if len(names) == 1 else f"{role}.{number}"
            prints[key] = fingerprint(name, dataset_dir=section.dataset_dir)
    return prints


def prepare_rows(
    section: DataConfig,
    template: BoundTemplate,
    objective: Objective,
    *,
    fingerprints: Mapping[str, str] | None = None,
) -> PreparedRows:
    """Read, split and tokenise the rows; mixing them is left to `make_mixture`.

    Args:
        section: The configuration's section.
        template: The bound template.
        objective: Makes sequences of records.
        fingerprints: `data_fingerprints(section)`, if it is known already.

    Raises:
        DataError: A file or row that cannot be used, rows too long under policy 'error', or nothing left to train on.
    """
    notes: list[str] = []
    fingerprints = data_fingerprints(section) if fingerprints is None else fingerprints
    names = source_names(section.train)
    if not names:
        raise DataError("data.train: names no source. Give a file, or the name of an entry of data.dataset_dir.")
    train, validation = _read_both(section, names, notes, needs_answer=objective.needs_answer)
    train_rows: list[Row] = []
    sizes = []
    for name, records in zip(names, train, strict=True):
        rows = _rows(records, "training" if len(names) == 1 else name, section, template, objective, notes)
        if not rows:
            raise DataError(f"{name}: no training row is left. Raise data.cutoff_len or check the rows.")
        train_rows += rows
        sizes.append(len(rows))
    validation_rows = _rows(validation, "validation", section, template, objective, notes)
    return PreparedRows(tuple(train_rows), tuple(validation_rows), tuple(sizes), fingerprints, tuple(notes))


def _read_both(
    section: DataConfig, names: Sequence[str], notes: list[str], *, needs_answer: bool
) -> tuple[list[Sequence[Record]], list[Record]]:
    """Training records per source, and validation records."""
    sources = [_read(name, section, notes, limit=section.max_samples, needs_answer=needs_answer) for name in names]
    if section.validation is not None:
        held = [
            _read(name, section, notes, limit=None, needs_answer=needs_answer)
            for name in source_names(section.validation)
        ]
        return list(sources), [record for records in held for record in records]
    whole, validation = split_validation([record for records in sources for record in records], section.val_size)
    kept = {id(record) for record in whole}
    return [[record for record in records if id(record) in kept] for records in sources], list(validation)


def _read(
    source: str, section: DataConfig, notes: list[str], *, limit: int | None, needs_answer: bool
) -> tuple[Record, ...]:
    result = read_section_rows(source, section, limit=limit, require_answer=needs_answer)
    notes += _reading_notes(result.report)
    return result.records


def _reading_notes(report: ReadReport) -> list[str]:
    return [f"{report.source}: {count} rows skipped: {reason}" for reason, count in report.dropped.items()]


def _sequences(
    records: Sequence[Record], role: str, template: BoundTemplate, objective: Objective, notes: list[str]
) -> tuple[list[Record], list[tuple[TokenSequence, ...]]]:
    """Records that something can be learnt from, and their sequences."""
    kept, made = [], []
    left_out: dict[str, list[str]] = {}
    for record in records:
        try:
            made.append(objective.sequences(record, template))
        except UnusableRowError as reason:
            left_out.setdefault(str(reason), []).append(str(record.origin))
        else:
            kept.append(record)
    notes += [
        f"{role} rows: {len(origins)} left out: {reason} (first: {origins[0]})" for reason, origins in left_out.items()
    ]
    return kept, made


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
    records, made = _sequences(records, role, template, objective, notes)
    flat = [(index, sequence) for index, sequences in enumerate(made) for sequence in sequences]
    try:
        fitted = fit_length(
            [sequence for _, sequence in flat],
            cutoff_len=section.cutoff_len,
            truncation=section.truncation,
            origins=[records[index].origin for index, _ in flat],
            needs_supervised=not isinstance(objective, SampledObjective),
        )
    except DataError as error:
        raise DataError(f"{role} rows: {error}") from error
    kept: dict[int, list[int]] = {}
    for position, original in enumerate(fitted.indices):
        kept.setdefault(flat[original][0], []).append(position)
    rows = []
    num_shortened = 0
    for index, positions in kept.items():
        if len(positions) == len(made[index]):  # a pair that lost one side is no pair
            sequences = tuple(fitted.sequences[position] for position in positions)
            record = records[index]
            facts, texts = objective.facts(record), objective.texts(record)
            rows.append(Row(sequences, str(record.origin), objective.count(sequences), facts, texts))
            num_shortened += sum(map(len, sequences)) < sum(map(len, made[index]))
    num_dropped = len(records) - len(rows)
    notes += _length_note(role, cutoff_len=section.cutoff_len, num_shortened=num_shortened, num_dropped=num_dropped)
    return list(objective.complete(rows, cutoff_len=section.cutoff_len))


def _length_note(role: str, *, cutoff_len: int, num_shortened: int, num_dropped: int) -> list[str]:
    """What the length limit did to rows; a pair counts once, whichever of its answers was too long."""
    counts = {"lost the start of their prompt": num_shortened, "dropped": num_dropped}
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    return [f"{role} rows against data.cutoff_len {cutoff_len}: {', '.join(parts)}"] if parts else []
