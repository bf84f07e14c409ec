"""Training started, stopped and resumed from the page: child processes of their own that outlive it.

A job is `python -m loratory train` with an argument list; no shell reads it. It leads its own session, so neither
closing the page nor the end of this process touches it, and it writes to a file, so nobody has to read along. What
became of it stands in its run directory. The processes of a sweep are the opposite: they end with their parent.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from loratory.errors import RunError
from loratory.run import RunDirectory, write_text, writer_of
from loratory.ui.draft import read_draft
from loratory.ui.listing import RunList, RunRow


class Jobs:
    """The training processes of a folder's runs.

    Args:
        runs: The list; started runs appear in it.
    """

    def __init__(self, runs: RunList) -> None:
        self._runs = runs
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._asked_to_stop: dict[str, int] = {}
        self._lock = threading.Lock()

    def rows(self) -> tuple[RunRow, ...]:
        """All runs as they are now; those at work first, then the latest."""
        rows = []
        for name in self._runs.names():
            # A directory may be taken away while we look.
            with suppress(RunError):
                rows.append(self.row(name))
        return tuple(sorted(rows, key=lambda row: (not row.is_alive, -row.changed_s, row.name)))

    def row(self, name: str) -> RunRow:
        """A run as it is now.

        Raises:
            RunError: There is no such run.
        """
        process = self._processes.get(name)
        is_started = process is not None and process.poll() is None
        writer = writer_of(self._runs.path(name))
        pid = None if writer is None else writer.pid
        is_stopping = pid is not None and self._asked_to_stop.get(name) == pid
        return self._runs.row(name, is_starting=is_started, is_stopping=is_stopping)

    def start(self, text: str) -> str:
        """Start the run that a run file describes, in the folder of this page; returns its name.

        Args:
            text: The run file.

        Raises:
            ConfigError, UnsafeError: It is wrong; nothing has been started.
            RunError: A run of that name is there.
        """
        draft = read_draft(text)
        name = draft.config.run.name
        path = self._runs.folder / name
        with self._lock:
            # A run that failed before it made anything leaves its name to the next attempt.
            is_free_again = name in self._runs.names() and self._never_began(name)
            try:
                path.mkdir(parents=True, exist_ok=is_free_again)
            except FileExistsError:
                raise RunError(f"run.name: '{name}' is taken in {self._runs.folder}; give another name") from None
            except OSError as error:
                raise RunError(f"{path}: cannot be made ({error.strerror})") from error
            directory = RunDirectory(path, "")
            write_text(directory.run_file, text)
            self._launch(name, [str(directory.run_file)])
        return name

    def resume(self, name: str) -> None:
        """Go on with a run that is neither finished nor at work.

        Raises:
            RunError: There is no such run, or nothing to resume.
        """
        with self._lock:
            row = self.row(name)
            if row.state not in ("stopped", "failed"):
                raise RunError(f"{name} is {row.state}; only a stopped or failed run can be resumed")
            directory = RunDirectory(self._runs.path(name), "")
            file = directory.config if directory.config.is_file() else directory.run_file
            self._launch(name, [str(file), "--resume"])

    def stop(self, name: str) -> None:
        """Ask a run to finish its step, save a checkpoint and leave. Asking twice does not end it at once.

        Raises:
            RunError: There is no such run, nobody works on it, or its process is not of this machine.
        """
        with self._lock:
            row = self.row(name)
            if row.state == "stopping":
                return
            process = self._processes.get(name)
            writer = writer_of(self._runs.path(name))
            if writer is None and row.state == "starting" and process is not None:
                process.send_signal(signal.SIGTERM)
                return
            if writer is None:
                raise RunError(f"{name} is {row.state}; there is nothing to stop")
            if writer.pid is None:
                raise RunError(f"{name} runs on another machine; stop it there")
            self._asked_to_stop[name] = writer.pid
            os.kill(writer.pid, signal.SIGTERM)

    def num_alive(self) -> int:
        """How many runs are at work."""
        return sum(row.is_alive for row in self.rows())

    def _never_began(self, name: str) -> bool:
        """Whether a run failed before it had made anything."""
        path = self._runs.path(name)
        return not (path / "provenance.json").exists() and not self.row(name).is_alive

    def _launch(self, name: str, arguments: Sequence[str]) -> None:
        folder = self._runs.folder
        command = [sys.executable, "-m", "loratory", "train", *arguments]
        # The directory that was made for it, whatever its file says.
        command += [f"run.output_dir={folder}", f"run.name={name}"]
        log = RunDirectory(folder / name, "").output_log
        with log.open("ab") as output:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=Path.cwd(),
            )
