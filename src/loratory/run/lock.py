"""The writer's lock of a run directory: one process writes, and anybody can see which one.

The lock is the system's (`flock`), so it is gone when the process is, however it ended. The file's content only says
who holds it.
"""

import fcntl
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from loratory.errors import RunError

LOCK_NAME = ".lock"
# Somebody who looks holds a shared lock for microseconds; a writer that comes then tries again.
_TRIES, _PAUSE_S = 10, 0.02
_CLOCK_S = 2.0


@dataclass(frozen=True, slots=True)
class Writer:
    """The process that holds a lock.

    Attributes:
        pid: Its number; None when it is on another machine or cannot be told.
    """

    pid: int | None


def take_lock(path: Path) -> int:
    """Lock a run directory, making it when it is missing; returns the descriptor that holds the lock.

    Raises:
        RunError: Another process holds it, or the directory cannot be used.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be used as a run directory ({error.strerror}). "
            "Check run.output_dir, run.name and the permissions of the folder."
        ) from error
    try:
        _flock(descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _identity())
    except OSError as error:
        os.close(descriptor)
        raise RunError(
            f"{path}: another process is writing this run. Wait for it, stop it, or choose another run.name."
        ) from error
    return descriptor


def writer_of(path: Path) -> Writer | None:
    """The process that writes a run directory, or None when nobody does. Leaves the lock to whoever wants it."""
    try:
        descriptor = os.open(path / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return Writer(_living_pid(os.read(descriptor, 4096)))
    finally:
        os.close(descriptor)
    return None


def _flock(descriptor: int) -> None:
    for attempt in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if attempt == _TRIES - 1:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def _identity() -> bytes:
    own = psutil.Process()
    return json.dumps({"pid": own.pid, "started_s": own.create_time(), "host": socket.gethostname()}).encode()


def _living_pid(identity: bytes) -> int | None:
    """The process of an identity, if it is this very one and no later one under its number."""
    try:
        found = json.loads(identity)
        pid, started_s = int(found["pid"]), float(found["started_s"])
        if found["host"] != socket.gethostname():
            return None
        return pid if abs(psutil.Process(pid).create_time() - started_s) < _CLOCK_S else None
    except (ValueError, KeyError, TypeError, psutil.Error):
        return None
