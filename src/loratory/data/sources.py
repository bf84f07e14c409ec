"""What the user names becomes files or a hub data set: a path, an entry of a register, `owner/name`."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loratory.data.csv_source import csv_rows
from loratory.data.dataset_info import INFO_NAME, DatasetEntry, dataset_entry, entry_names
from loratory.data.faults import RowFault
from loratory.data.json_source import json_lines, json_rows
from loratory.data.records import Origin
from loratory.data.table_source import HubDataset, hub_fingerprint, hub_rows, parquet_rows, parse_hub_name
from loratory.errors import DataError, suggest

_FILE_READERS = {".json": json_rows, ".jsonl": json_lines, ".csv": csv_rows, ".parquet": parquet_rows}


@dataclass(frozen=True, slots=True)
class Source:
    """One source of rows.

    Attributes:
        name: As the user wrote it.
        files: Its files, in order; none for a hub data set.
        hub: The hub data set, if it is one.
        entry: The register's entry, if it was named by one.
    """

    name: str
    files: tuple[Path, ...] = ()
    hub: HubDataset | None = None
    entry: DatasetEntry | None = None

    def rows(self) -> Iterator[tuple[Origin, object | RowFault]]:
        """Every row with its place, parsed but not converted.

        Raises:
            DataError: If a file is empty or cannot be parsed, or the hub cannot be reached.
            MissingExtraError: If a library is needed that is not installed.
        """
        if self.hub is not None:
            yield from ((Origin(self.name, number), row) for number, row in hub_rows(self.hub, self.name))
        for path in self.files:
            file = str(path) if len(self.files) > 1 or self.entry is not None else self.name
            if path.stat().st_size == 0:
                raise DataError(f"{file}: the file is empty (0 bytes).")
            yield from ((Origin(file, line), row) for line, row in _FILE_READERS[path.suffix.lower()](path, file))

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the file's bytes; several files or an entry's definition enter one after the other."""
        digests = [hub_fingerprint(self.hub, self.name)] if self.hub is not None else []
        for path in self.files:
            with path.open("rb") as stream:
                digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
        if self.entry is not None:
            digests.append(self.entry.definition)
        return digests[0] if len(digests) == 1 else hashlib.sha256("\x1f".join(digests).encode()).hexdigest()


def source_names(value: str | Sequence[str]) -> tuple[str, ...]:
    """The single sources of a list, or of a text with commas (an existing path with a comma in it stays whole)."""
    if not isinstance(value, str):
        return tuple(value)
    if "," not in value or Path(value).exists():
        return (value,)
    return tuple(part.strip() for part in value.split(",") if part.strip())


def find_source(name: str, *, dataset_dir: str | None = None) -> Source:
    """Find what a name means.

    In this order: an entry of the register in `dataset_dir`; a file; `FOLDER/ENTRY` where the folder has a register;
    a hub data set `owner/name` or `owner/name:split`.

    Args:
        name: Path or name.
        dataset_dir: Folder with a `dataset_info.json`.

    Raises:
        DataError: If there is nothing of that name; names the nearest.
    """
    path = Path(name)
    registered = entry_names(Path(dataset_dir)) if dataset_dir is not None else ()
    if dataset_dir is not None and not (Path(dataset_dir) / INFO_NAME).is_file():
        raise DataError(f"data.dataset_dir: '{dataset_dir}' holds no {INFO_NAME}.")
    if dataset_dir is not None and name in registered:
        return _registered(name, dataset_entry(Path(dataset_dir), name))
    if path.is_dir():
        entries = entry_names(path)
        hint = f" Entries of its register: {', '.join(f'{name}/{entry}' for entry in entries[:4])}." if entries else ""
        raise DataError(f"{name}: is a folder; give one file ({', '.join(_FILE_READERS)}).{hint}")
    if path.is_file():
        return Source(name, (_readable(path, name),))
    if not path.suffix and len(path.parts) > 1 and (path.parent / INFO_NAME).is_file():
        return _registered(name, dataset_entry(path.parent, path.name))
    hub = parse_hub_name(name)
    if hub is not None and path.suffix.lower() not in _FILE_READERS:
        return Source(name, hub=hub)
    if dataset_dir is not None and not path.suffix and len(path.parts) == 1:
        dataset_entry(Path(dataset_dir), name)  # raises: no such entry, with the nearest one
    raise _missing(path, name)


def _registered(name: str, entry: DatasetEntry) -> Source:
    if entry.hub_name is not None:
        hub = HubDataset(entry.hub_name, split=entry.split, subset=entry.subset, folder=entry.folder)
        return Source(name, hub=hub, entry=entry)
    assert entry.file is not None
    if entry.file.is_file():
        return Source(name, (_readable(entry.file, str(entry.file)),), entry=entry)
    files = sorted(path for path in entry.file.iterdir() if path.is_file() and not path.name.startswith("."))
    kinds = sorted({path.suffix.lower() or "(no ending)" for path in files})
    if not files or len(kinds) > 1:
        held = f"files of kinds {', '.join(kinds)}" if files else "no file"
        raise DataError(
            f"{entry.place}: file_name: the folder '{entry.file}' holds {held}; it needs files of one kind."
        )
    return Source(name, tuple(_readable(path, str(path)) for path in files), entry=entry)


def _readable(path: Path, name: str) -> Path:
    if path.suffix.lower() not in _FILE_READERS:
        kinds = ", ".join(_FILE_READERS)
        raise DataError(f"{name}: files of kind '{path.suffix or '(no ending)'}' are not read; one of {kinds}.")
    return path


def _missing(path: Path, name: str) -> DataError:
    folder = path.parent
    if not folder.is_dir():
        return DataError(f"{name}: no such file (there is no folder '{folder}').")
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in _FILE_READERS)
    held = f" '{folder}' holds: {', '.join(names[:8])}." if names else f" '{folder}' holds no data file."
    hint = "" if path.suffix else " For an entry of a dataset_info.json, set data.dataset_dir to its folder."
    return DataError(f"{name}: no such file.{suggest(path.name, names)}{held}{hint}")
