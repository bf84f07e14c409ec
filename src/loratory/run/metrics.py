"""metrics.jsonl: one JSON object per line, appended and flushed as training goes; the source of every curve."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from loratory.errors import IntegrityError
from loratory.run.commit import write_text

MetricValue = float | int | str


class MetricsLog:
    """The metrics of one run, open for appending."""

    def __init__(self, path: Path, *, keep_lines: int = 0) -> None:
        """Open the log.

        Args:
            path: The file; created when missing.
            keep_lines: Lines to keep of an existing file: what the checkpoint had seen. The rest, including a line
                torn by a kill, is cut off, so that the curve of a resumed run is continuous.

        Raises:
            IntegrityError: Fewer than `keep_lines` lines are there, or one of them is no JSON object.
        """
        kept = _first_lines(path, keep_lines)
        write_text(path, "".join(kept))
        self.num_lines = len(kept)
        self._file = path.open("a", encoding="utf-8")

    def write(self, values: Mapping[str, MetricValue]) -> None:
        """Append one line and flush it to the system. Non-finite numbers are refused (ValueError)."""
        self._file.write(json.dumps(dict(values), allow_nan=False) + "\n")
        self._file.flush()
        self.num_lines += 1

    def sync(self) -> None:
        """Flush to the device; done before a checkpoint that counts these lines is committed."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, MetricValue]]:
    """Every whole line of a metrics file; a torn last line is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _first_lines(path: Path, count: int) -> list[str]:
    if count == 0:
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:count]
        damaged = len(lines) < count or not all(isinstance(json.loads(line), dict) for line in lines)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path}: cannot be read ({error}); the checkpoint counts {count} lines of it") from error
    if damaged:
        raise IntegrityError(f"{path}: damaged; the checkpoint counts {count} whole lines of it")
    return lines
