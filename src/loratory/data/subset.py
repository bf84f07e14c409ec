"""Smaller sets that keep every class's share, out of one file or several.

Which rows are chosen depends on their content alone: within a class, rows stand in the order of their hash, and a
quota takes the first ones. Rows added later move nothing but the border. Sizes are nested; test rows share no prompt
with any training row.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loratory.data.faults import FaultLog, RowFault
from loratory.data.quota import largest_deviation, nested_quotas
from loratory.data.record_stream import RecordStream
from loratory.data.records import Record
from loratory.data.row_file import FILE_KINDS, file_text, value_text
from loratory.data.strata import Stratum
from loratory.errors import DataError
from loratory.run.commit import write_text

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that can be chosen.

    Attributes:
        index: Its number among all rows read.
        place: `file:line`.
        stratum: Its class.
        prompt_key: Equal for rows with the same prompt.
        row_id: SHA-256 of the row's content, hexadecimal.
        order: Its place within its class: hashes of prompt and content.
    """

    index: int
    place: str
    stratum: str
    prompt_key: str
    row_id: str
    order: str


@dataclass(frozen=True, slots=True)
class Cut:
    """One chosen set.

    Attributes:
        name: `train_400`, `test_100`.
        rows: The chosen rows, in the order of their files.
        counts: Class -> rows chosen.
        available: Class -> rows it was chosen from.
        deviation: Largest distance of a class from its share of `available`, in rows; below 1.
    """

    name: str
    rows: tuple[Candidate, ...]
    counts: Mapping[str, int]
    available: Mapping[str, int]
    deviation: float


@dataclass(frozen=True, slots=True)
class SubsetResult:
    """What `write_subsets` wrote.

    Attributes:
        cuts: The sets, test first, then training by size.
        files: Name of a set -> its file.
        manifest: The manifest.
        rows_read: Rows looked at.
        skipped: Bad rows left out.
        withheld: Rows in no set because they share a prompt with a test row.
    """

    cuts: tuple[Cut, ...]
    files: Mapping[str, Path]
    manifest: Path
    rows_read: int
    skipped: int
    withheld: int


def choose_subsets(
    candidates: Sequence[Candidate], sizes: Sequence[int], *, test_size: int = 0
) -> tuple[tuple[Cut, ...], int]:
    """Choose a test set and nested training sets.

    Args:
        candidates: All rows.
        sizes: Rows of each training set.
        test_size: Rows of the test set; none when 0.

    Returns:
        The sets, and how many rows were withheld for sharing a prompt with a test row.

    Raises:
        DataError: There are fewer rows than asked for.
    """
    test = _cut(candidates, [test_size], "test") if test_size else ()
    held = {row.prompt_key for cut in test for row in cut.rows}
    rest = [row for row in candidates if row.prompt_key not in held]
    train = _cut(rest, sorted(set(sizes)), "train")
    return (*test, *train), len(candidates) - len(rest) - test_size


def write_subsets(
    streams: Sequence[RecordStream],
    stratum: Stratum,
    sizes: Sequence[int],
    *,
    output: Path,
    test_size: int = 0,
    max_bad_rows: int = 0,
) -> SubsetResult:
    """Choose sets and write them with their manifest, rows unchanged, in the kind of file they came in.

    The sources are walked twice and never held in memory as a whole.

    Args:
        streams: The sources.
        stratum: What the sets are balanced by.
        sizes: Rows of each training set.
        output: Folder for the files; made if missing. Files of the same names are replaced.
        test_size: Rows of the test set.
        max_bad_rows: Bad rows that are left out; one more is an error.

    Raises:
        DataError: Fewer rows than asked for, too many bad rows, or a row without the field to balance by.
    """
    faults = FaultLog()
    candidates: list[Candidate] = []
    index = 0
    for stream in streams:
        for origin, row, record in stream:
            if isinstance(record, RowFault):
                faults.add(origin, record)
            else:
                assert isinstance(row, Mapping)
                candidates.append(candidate(record, row, stratum, index=index))
            index += 1
    faults.raise_above(max_bad_rows, rows_read=index)
    cuts, withheld = choose_subsets(candidates, sizes, test_size=test_size)
    rows = _rows_at({row.index for cut in cuts for row in cut.rows}, streams)
    kind = Path(streams[0].source).suffix.lower()
    kind = kind if kind in FILE_KINDS else ".jsonl"
    output.mkdir(parents=True, exist_ok=True)
    files = {}
    for cut in cuts:
        files[cut.name] = output / f"{cut.name}{kind}"
        write_text(files[cut.name], file_text([rows[row.index] for row in cut.rows], kind))
    manifest = output / "manifest.json"
    result = SubsetResult(cuts, files, manifest, index, faults.total, withheld)
    write_text(manifest, _manifest_text(result, [stream.source for stream in streams], stratum))
    return result


def candidate(record: Record, row: Mapping[str, object], stratum: Stratum, *, index: int) -> Candidate:
    """What has to be known of a row to choose it.

    Raises:
        DataError: The row has no field to balance by.
    """
    key = record.prompt_key
    row_id = hashlib.sha256(value_text(row).encode("utf-8", "surrogatepass")).hexdigest()
    # Salted, so that this order and the validation split are independent.
    order = hashlib.sha256(f"subset\x1f{key}".encode()).hexdigest()
    return Candidate(index, str(record.origin), stratum.of(record, row), key, row_id, f"{order}{row_id}")


def _cut(candidates: Sequence[Candidate], sizes: Sequence[int], role: str) -> tuple[Cut, ...]:
    if sizes and max(sizes) > len(candidates):
        raise DataError(
            f"{max(sizes):,} {role} rows were asked for and {len(candidates):,} are there. Ask for fewer, or leave "
            "the test set smaller: training rows with the prompt of a test row are not used."
        )
    available = dict(sorted(Counter(row.stratum for row in candidates).items()))
    ranked: dict[str, list[Candidate]] = {name: [] for name in available}
    for row in sorted(candidates, key=lambda row: (row.order, row.index)):
        ranked[row.stratum].append(row)
    cuts = []
    for size, quotas in nested_quotas(available, sizes).items():
        chosen = [row for name, quota in quotas.items() for row in ranked[name][:quota]]
        deviation = largest_deviation(available, quotas)
        assert deviation < 1
        rows = tuple(sorted(chosen, key=lambda row: row.index))
        cuts.append(Cut(f"{role}_{size}", rows, quotas, available, deviation))
    return tuple(cuts)


def _rows_at(wanted: set[int], streams: Sequence[RecordStream]) -> dict[int, Mapping[str, object]]:
    found: dict[int, Mapping[str, object]] = {}
    index = 0
    for stream in streams:
        for _, row, _ in stream:
            if index in wanted:
                assert isinstance(row, Mapping)
                found[index] = row
            index += 1
    return found


def _manifest_text(result: SubsetResult, sources: Sequence[str], stratum: Stratum) -> str:
    sets = [
        {
            "name": cut.name,
            "file": result.files[cut.name].name,
            "rows": len(cut.rows),
            "largest_share_deviation_rows": round(cut.deviation, 6),
            "strata": {name: {"rows": cut.counts[name], "of": count} for name, count in cut.available.items()},
            "ids": [{"place": row.place, "sha256": row.row_id} for row in cut.rows],
        }
        for cut in result.cuts
    ]
    document = {
        "schema_version": SCHEMA_VERSION,
        "sources": list(sources),
        "by": stratum.expression,
        "rows_read": result.rows_read,
        "skipped": result.skipped,
        "withheld_for_test_prompts": result.withheld,
        "sets": sets,
    }
    return value_text(document) + "\n"
