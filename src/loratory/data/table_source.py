"""Rows of Parquet files and of hub data sets, numbered from 1; both need the `datasets` extra."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from loratory.data.json_source import SourceRow
from loratory.errors import DataError, MissingExtraError

_HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<split>[\w.-]+))?")


def is_hub_name(source: str) -> bool:
    """Whether the text can name a hub data set: `owner/name` or `owner/name:split`."""
    return _HUB_NAME.fullmatch(source) is not None


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


def hub_rows(source: str) -> Iterator[SourceRow]:
    """Rows of a hub data set, read by the datasets library from its cache or the hub.

    That library guesses types where a data set holds bare CSV or JSON files; values it made into something else than
    text are refused like any other. For the exact text of such files, download them and give their path.

    Raises:
        MissingExtraError: If datasets is not installed.
        DataError: If the data set or split is not there or cannot be reached.
    """
    yield from enumerate(_hub_dataset(source), start=1)


def hub_fingerprint(source: str) -> str:
    """SHA-256 over the name and the library's content-and-revision fingerprint."""
    return hashlib.sha256(f"{source}\x1f{_hub_dataset(source)._fingerprint}".encode()).hexdigest()


def _hub_dataset(source: str):  # type: ignore[no-untyped-def]
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("Reading data sets from the hub", "datasets") from None
    match = _HUB_NAME.fullmatch(source)
    assert match is not None
    split = match["split"] or "train"
    try:
        return datasets.load_dataset(match["name"], split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{source}: cannot read this hub data set (split '{split}'): {first}. Without a network, download the data "
            "elsewhere and give the path of a .json, .jsonl, .csv or .parquet file; another split is named as "
            f"'{match['name']}:SPLIT'."
        ) from None
