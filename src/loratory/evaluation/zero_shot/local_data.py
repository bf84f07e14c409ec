"""Reading a task's local files: JSON lines, checked row by row, with the checksum of every file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loratory.errors import DataError
from loratory.evaluation.zero_shot.layout import LAYOUTS, Row, RowError

_SHOWN_FAULTS = 5


@dataclass(frozen=True, slots=True)
class LocalTask:
    """A task's rows from local files.

    Attributes:
        folder: Where the files are.
        splits: Rows by split, in the hub's layout; only splits that have a file.
        split: The one to score.
        sha256: Checksum of each file read, by file name.
    """

    folder: Path
    splits: Mapping[str, tuple[Row, ...]]
    split: str
    sha256: Mapping[str, str]

    @property
    def fewshot_split(self) -> str:
        """Where examples come from: the training rows, else rows that are not scored, else the scored ones."""
        return next((s for s in ("train", "validation") if s in self.splits and s != self.split), self.split)

    @property
    def is_processed(self) -> bool:
        """The rows are past lm-eval's own preprocessing (HellaSwag requests)."""
        return "query" in self.splits[self.split][0]


def candidate_files(task: str) -> tuple[str, ...]:
    """File names that the task can be scored from."""
    layout = LAYOUTS[task]
    return tuple(name for split in layout.splits for name in layout.files[split])


def read_local_task(task: str, folder: Path) -> LocalTask | None:
    """Read all splits of a task that have a file in the folder.

    Args:
        task: A name out of `LAYOUTS`.
        folder: Folder with the files.

    Returns:
        The rows, or None when there is no file to score.

    Raises:
        DataError: When a file has no rows or broken ones: file, line and field are named, several at once.
    """
    layout = LAYOUTS[task]
    found = {
        split: next((folder / name for name in names if (folder / name).is_file()), None)
        for split, names in layout.files.items()
    }
    split = next((s for s in layout.splits if found[s] is not None), None)
    if split is None:
        return None
    splits: dict[str, tuple[Row, ...]] = {}
    sha256: dict[str, str] = {}
    for name, path in found.items():
        if path is not None:
            splits[name] = _read_rows(task, path, sha256)
    kinds = {"query" in rows[0] for rows in splits.values()}
    if len(kinds) > 1:
        raise DataError(f"{task}: the files of {folder} have different layouts; keep those of one")
    return LocalTask(folder, splits, split, sha256)


def _read_rows(task: str, path: Path, sha256: dict[str, str]) -> tuple[Row, ...]:
    layout = LAYOUTS[task]
    lines = _lines(path, sha256)
    labels_path = path.with_name(f"{path.stem}-labels.lst")
    labels = _lines(labels_path, sha256) if layout.has_label_file and labels_path.is_file() else None
    if not lines:
        raise DataError(f"{path}: the file has no rows")
    if labels is not None and len(labels) != len(lines):
        raise DataError(f"{labels_path}: {len(labels)} labels for {len(lines)} rows of {path.name}; each row needs one")
    rows, faults = [], []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise RowError(f"a row must be a JSON object, got {line.strip()[:40]!r}")
            if labels is not None:
                row["label"] = labels[number - 1].strip()
            rows.append(layout.convert(row))
        except json.JSONDecodeError as error:
            faults.append(f"{path}, line {number}: not JSON ({error.msg} at column {error.colno})")
        except RowError as error:
            faults.append(f"{path}, line {number}: {error}")
    if len({"query" in row for row in rows}) > 1:
        faults.append(f"{path}: some rows have a 'query', others 'ctx_a'; keep rows of one layout")
    if faults:
        more = f"\nand {len(faults) - _SHOWN_FAULTS} more" if len(faults) > _SHOWN_FAULTS else ""
        shown = "\n".join(faults[:_SHOWN_FAULTS])
        raise DataError(f"{task}: {len(faults)} broken rows; mend or delete them:\n{shown}{more}")
    return tuple(rows)


def _lines(path: Path, sha256: dict[str, str]) -> list[str]:
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    sha256[path.name] = hashlib.sha256(content).hexdigest()
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines
