"""Rows of Parquet files and of hub data sets, numbered from 1; both need the `datasets` extra."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loratory.data.json_source import SourceRow
from loratory.errors import DataError, MissingExtraError

_HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<split>[\w.-]+))?")


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set of the hub.

    Attributes:
        name: `owner/name`, or a bare name for the hub's oldest ones.
        split: Which split.
        subset: Configuration, if it has several.
        folder: Only the files in this folder of it.
    """

    name: str
    split: str = "train"
    subset: str | None = None
    folder: str | None = None


def parse_hub_name(source: str) -> HubDataset | None:
    """The hub data set that a text names: `owner/name` or `owner/name:split`; None if it cannot name one."""
    match = _HUB_NAME.fullmatch(source)
    return HubDataset(match["name"], split=match["split"] or "train") if match else None


def parquet_rows(path: Path, file: str) -> Iterator[SourceRow]:
    """Stream the rows of a Parquet file; the line is the row's number.

    Raises:
        MissingExtraError: If pyarrow is not installed.
        DataError: If the file is not Parquet or is damaged.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("Reading Parquet files", "datasets") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{file}:{number + 1}: not a readable Parquet file: {error}") from None


def hub_rows(dataset: HubDataset, source: str) -> Iterator[SourceRow]:
    """Rows of a hub data set, read by the datasets library from its cache or the hub.

    That library guesses types where a data set holds bare CSV or JSON files; values it made into something else than
    text are refused like any other. For the exact text of such files, download them and give their path.

    Raises:
        MissingExtraError: If datasets is not installed.
        DataError: If the data set or split is not there or cannot be reached.
    """
    yield from enumerate(_loaded(dataset, source), start=1)


def hub_fingerprint(dataset: HubDataset, source: str) -> str:
    """SHA-256 over the name and the library's content-and-revision fingerprint."""
    return hashlib.sha256(f"{source}\x1f{_loaded(dataset, source)._fingerprint}".encode()).hexdigest()


def _loaded(dataset: HubDataset, source: str):  # type: ignore[no-untyped-def]
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("Reading data sets from the hub", "datasets") from None
    try:
        return datasets.load_dataset(dataset.name, dataset.subset, data_dir=dataset.folder, split=dataset.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{source}: cannot read this hub data set ('{dataset.name}', split '{dataset.split}'): {first}. Without a "
            "network, download the data elsewhere and give the path of a .json, .jsonl, .csv or .parquet file (in a "
            f"dataset_info.json: file_name); another split is named as '{dataset.name}:SPLIT'."
        ) from None
