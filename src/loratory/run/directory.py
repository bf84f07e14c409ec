"""RunDirectory: the place of one run, its paths and its lock. The layout is the interface between the stages.

Not a writer of content: checkpoints, metrics and provenance have their own modules.
"""

import json
import os
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from loratory.errors import RunError
from loratory.run.checkpoints import CheckpointStore
from loratory.run.ending import ENDING_NAME, ending_of, write_ending
from loratory.run.lock import LOCK_NAME, take_lock
from loratory.run.stage import clean, discard

RUN_FILE = "run.yaml"
OUTPUT_LOG = "output.log"


class RunDirectory:
    """Paths of a run; holds the writer's lock when made by `create` or `open`.

    Attributes:
        path: outputs/NAME.
        run_id: Random name of this very run; checkpoints carry it.
    """

    def __init__(self, path: Path, run_id: str, lock_descriptor: int | None = None) -> None:
        self.path = path
        self.run_id = run_id
        self._lock_descriptor = lock_descriptor
        self.checkpoints = CheckpointStore(path, run_id)

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def config_used(self) -> Path:
        """The same configuration under the documented name."""
        return self.path / "config_used.yaml"

    @property
    def run_file(self) -> Path:
        """The run file as it was given, where `loratory ui` started the run."""
        return self.path / RUN_FILE

    @property
    def output_log(self) -> Path:
        """What the training process wrote, where `loratory ui` started it."""
        return self.path / OUTPUT_LOG

    @property
    def provenance(self) -> Path:
        """Versions, data fingerprints, template contract, base identity."""
        return self.path / "provenance.json"

    @property
    def template(self) -> Path:
        """The template contract that inference must keep."""
        return self.path / "template.json"

    @property
    def metrics(self) -> Path:
        """One JSON line per logged step and evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def final_model(self) -> Path:
        """The result: adapter or full model, with tokenizer files. Exists only when the run has finished."""
        return self.path / "final_model"

    @property
    def predictions(self) -> Path:
        """Generated predictions."""
        return self.path / "predictions"

    @property
    def evaluation(self) -> Path:
        """Scores."""
        return self.path / "evaluation"

    @property
    def is_finished(self) -> bool:
        """Whether the final model has been published."""
        return self.final_model.is_dir()

    @classmethod
    def create(cls, path: Path, *, overwrite: bool = False) -> Self:
        """Start a new run in `path` and lock it.

        A directory whose run never saved anything is taken over; anything else that is there is refused.

        Args:
            path: The run directory; parents are created.
            overwrite: Throw away the run that is there.

        Raises:
            RunError: A run or foreign files are there, another process writes there, or it cannot be created.
        """
        descriptor = take_lock(path)
        directory = cls(path, uuid.uuid4().hex, descriptor)
        try:
            if overwrite and directory.config.exists():
                directory._empty()
            directory._refuse_occupied()
            clean(path, is_sole_writer=True)
        except BaseException:
            directory.close()
            raise
        return directory

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing run for writing (resume) and lock it.

        Raises:
            RunError: There is no run, or another process writes there.
        """
        if not path.is_dir():
            raise RunError(f"{path}: no such run. Start it without --resume, or check run.name and run.output_dir.")
        descriptor = take_lock(path)
        return cls(path, _read_run_id(path) or uuid.uuid4().hex, descriptor)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open an existing run for reading only; takes no lock.

        Raises:
            RunError: There is no run.
        """
        run_id = _read_run_id(path)
        if run_id is None:
            raise RunError(f"{path}: not a run directory (no provenance.json). Give a folder that `train` wrote.")
        return cls(path, run_id)

    def close(self) -> None:
        """Release the lock; a directory that holds nothing but the lock is removed again."""
        if self._lock_descriptor is None:
            return
        if self._is_empty:
            (self.path / LOCK_NAME).unlink()
            self.path.rmdir()
        os.close(self._lock_descriptor)
        self._lock_descriptor = None

    def __enter__(self) -> Self:
        if self._lock_descriptor is not None:
            (self.path / ENDING_NAME).unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock_descriptor is not None and not self.is_finished and not self._is_empty:
            write_ending(self.path, ending_of(error))
        self.close()

    @property
    def _is_empty(self) -> bool:
        return {p.name for p in self.path.iterdir()} == {LOCK_NAME}

    def _refuse_occupied(self) -> None:
        names = {p.name for p in self.path.iterdir() if not p.name.startswith(".")} - {RUN_FILE, OUTPUT_LOG}
        if self.is_finished:
            raise RunError(
                f"{self.path}: a finished run is there. Choose another run.name, or overwrite it explicitly "
                "(--overwrite). --resume would say that it is finished."
            )
        if steps := self.checkpoints.steps():
            raise RunError(
                f"{self.path}: an unfinished run is there (checkpoint at step {steps[-1]}). Go on with --resume, "
                "choose another run.name, or overwrite it explicitly (--overwrite)."
            )
        if names and not self.config.exists():
            raise RunError(
                f"{self.path}: not empty and not a run ({', '.join(sorted(names)[:5])}). Choose another run.name."
            )

    def _empty(self) -> None:
        for entry in self.path.iterdir():
            if entry.name == LOCK_NAME:
                continue
            if entry.is_dir() and not entry.is_symlink():
                discard(entry)
            else:
                entry.unlink()


def _read_run_id(path: Path) -> str | None:
    try:
        return str(json.loads((path / "provenance.json").read_text(encoding="utf-8"))["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
