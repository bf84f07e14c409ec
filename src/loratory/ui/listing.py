"""The runs of a folder and what state each is in, read from their directories alone.

So the page knows as much after its process was killed and started again as before.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loratory.config.document import read_document
from loratory.errors import ConfigError, RunError, UnsafeError
from loratory.run import RunDirectory, read_ending, read_metrics, writer_of
from loratory.run.directory import OUTPUT_LOG, RUN_FILE
from loratory.run.metrics import MetricValue

State = Literal["starting", "running", "stopping", "finished", "stopped", "failed"]
ALIVE: tuple[State, ...] = ("starting", "running", "stopping")
NO_WORD = "the process ended without a word: killed, or the machine ran out of memory"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LOG_BYTES = 20_000
_LOG_LINES = 40

Metrics = tuple[Mapping[str, MetricValue], ...]


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the list shows it.

    Attributes:
        name: Its folder's.
        state: What it is doing.
        reason: Why it is not finished; empty when that needs no words.
        progress: Share of its steps done, 0 to 1; None when it cannot be said.
        latest: Last value of each number in metrics.jsonl.
        base: The base model.
        method: The adapter method.
        seed: train.seed, as written.
        changed_s: When its metrics were last written, seconds since the epoch; 0 without any.
    """

    name: str
    state: State
    reason: str
    progress: float | None
    latest: Mapping[str, float]
    base: str
    method: str
    seed: str
    changed_s: float

    @property
    def is_alive(self) -> bool:
        """Whether a process works on it."""
        return self.state in ALIVE


class RunList:
    """The run directories right below a folder.

    Args:
        folder: Where they are; it may not exist yet.

    Attributes:
        folder: The same.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._metrics: dict[str, tuple[tuple[int, int], Metrics]] = {}

    def names(self) -> tuple[str, ...]:
        """Names of the runs, sorted."""
        if not self.folder.is_dir():
            return ()
        found = (path.name for path in self.folder.iterdir() if _is_run(path))
        return tuple(sorted(found, key=str.casefold))

    def path(self, name: str) -> Path:
        """The directory of a run in the list. Nothing else can be named: no path, no other folder.

        Raises:
            RunError: There is no such run.
        """
        if name not in self.names():
            raise RunError(f"no run of that name in {self.folder}; it may have been moved: look at the list again")
        return self.folder / name

    def row(self, name: str, *, is_starting: bool = False, is_stopping: bool = False) -> RunRow:
        """A run of the list.

        Args:
            name: Of a run in the list.
            is_starting: A process was started for it, which may not have come so far as to take the lock.
            is_stopping: It was asked to stop.

        Raises:
            RunError: There is no such run.
        """
        path = self.path(name)
        state, reason = _state(path, is_starting=is_starting, is_stopping=is_stopping)
        metrics = self.metrics(name)
        latest = {key: float(value) for line in metrics for key, value in line.items() if not isinstance(value, str)}
        config = _config(path)
        file = RunDirectory(path, "").metrics
        return RunRow(
            name=name,
            state=state,
            reason=reason,
            progress=1.0 if state == "finished" else _progress(config, latest),
            latest=latest,
            base=Path(str(_value(config, "model", "model_name_or_path") or "–")).name,
            method=str(_value(config, "adapter", "method") or "lora"),
            seed=str(_value(config, "train", "seed") or "–"),
            changed_s=file.stat().st_mtime if file.exists() else 0.0,
        )

    def metrics(self, name: str) -> Metrics:
        """The lines of a run's metrics.jsonl so far; read again only when the file has changed.

        Raises:
            RunError: There is no such run.
        """
        file = RunDirectory(self.path(name), "").metrics
        try:
            facts = file.stat()
            stamp = (facts.st_mtime_ns, facts.st_size)
            known = self._metrics.get(name)
            if known is None or known[0] != stamp:
                known = (stamp, tuple(read_metrics(file)))
                self._metrics[name] = known
        except (OSError, ValueError):
            return ()
        return known[1]

    def log(self, name: str) -> str:
        """The end of what the run's process wrote, if the page started it.

        Raises:
            RunError: There is no such run.
        """
        return log_end(RunDirectory(self.path(name), "").output_log)

    def config_text(self, name: str) -> str:
        """The run file of a run: the resolved one, or what it was started with when it never came so far.

        Raises:
            RunError: There is no such run, or it has none that can be read.
        """
        directory = RunDirectory(self.path(name), "")
        file = directory.config if directory.config.is_file() else directory.run_file
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise RunError(f"{file}: cannot be read ({error})") from error


def log_end(file: Path) -> str:
    """The last lines of a log; empty when there is none."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - _LOG_BYTES))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    # A progress bar goes back to the start of its line; only what it showed last counts.
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return "\n".join(line for line in lines[-_LOG_LINES:] if line)


def _is_run(path: Path) -> bool:
    if _NAME.fullmatch(path.name) is None or not path.is_dir():
        return False
    return (path / "provenance.json").is_file() or (path / RUN_FILE).is_file()


def _state(path: Path, *, is_starting: bool, is_stopping: bool) -> tuple[State, str]:
    # The lock first: a run that is being written has left its earlier ending behind.
    if writer_of(path) is not None:
        return ("stopping", "finishes its step and saves") if is_stopping else ("running", "")
    if is_starting:
        return "starting", "loads its libraries and its model"
    if RunDirectory(path, "").is_finished:
        return "finished", ""
    ending = read_ending(path)
    if ending is not None:
        return ("failed" if ending.is_failure else "stopped"), ending.reason
    if not (path / "provenance.json").is_file():
        lines = log_end(path / OUTPUT_LOG).splitlines()
        return "failed", lines[-1] if lines else "it never began"
    return "failed", NO_WORD


def _config(path: Path) -> Mapping[str, object]:
    directory = RunDirectory(path, "")
    file = directory.config if directory.config.is_file() else directory.run_file
    try:
        found = read_document(file)
    except (ConfigError, UnsafeError):
        return {}
    return found if isinstance(found, dict) else {}


def _value(config: Mapping[str, object], section: str, key: str) -> object:
    inner = config.get(section)
    return inner.get(key) if isinstance(inner, dict) else None


def _progress(config: Mapping[str, object], latest: Mapping[str, float]) -> float | None:
    max_steps, num_epochs = (_value(config, "train", key) for key in ("max_steps", "num_epochs"))
    for done, total in (("step", max_steps), ("epoch", num_epochs)):
        if isinstance(total, int | float) and total > 0 and done in latest:
            return min(1.0, latest[done] / total)
    return None
