"""Stages: directories that are filled beside their final place. Gone when their writer is done, however it ended.

A writer holds its stage by a lock of the system (`flock`), which ends with the process; a stage that nobody holds is
left over from a process that was killed, and the next writer beside it removes it.
"""

import contextlib
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loratory.run.termination import unwound_by_signals

STAGE_PREFIX = ".stage-"
TRASH_PREFIX = ".trash-"
_LEFTOVER = re.compile(rf"({re.escape(STAGE_PREFIX)}|{re.escape(TRASH_PREFIX)})[0-9a-f]{{32}}")


@contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """An empty directory in `parent`, hence on the filesystem of its target; removed at the end unless it was moved.

    Also removed when the block ends by Ctrl-C or SIGTERM. Leftovers of dead processes in `parent` are removed before.
    """
    with unwound_by_signals():
        with contextlib.suppress(OSError):
            clean(parent)
        stage, descriptor = _new_stage(parent)
        try:
            yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)
            os.close(descriptor)


@contextmanager
def set_aside(path: Path) -> Iterator[None]:
    """A directory is out of the way while the block replaces it; back if the block fails, else deleted."""
    trash = path.with_name(f"{TRASH_PREFIX}{uuid.uuid4().hex}")
    descriptor = _open(path)
    try:
        with contextlib.suppress(OSError):
            _lock(descriptor)
        path.rename(trash)
        try:
            yield
        except BaseException:
            if not path.exists():
                trash.rename(path)
            raise
        finally:
            shutil.rmtree(trash, ignore_errors=True)
    finally:
        os.close(descriptor)


def discard(path: Path) -> None:
    """Remove a directory so that no reader ever sees it half removed: one rename to trash, then deletion."""
    with set_aside(path):
        pass


def clean(parent: Path, *, is_sole_writer: bool = False) -> int:
    """Delete stages and trash that no living process holds; returns how many there were.

    Args:
        parent: Where they lie.
        is_sole_writer: Nobody else writes in `parent`, so that leftovers go even on a filesystem that locks no
            directories.
    """
    names = sorted(path.name for path in parent.iterdir() if _LEFTOVER.fullmatch(path.name))
    return sum(_remove_leftover(parent / name, is_sole_writer=is_sole_writer) for name in names)


def _new_stage(parent: Path) -> tuple[Path, int]:
    """A stage and the descriptor that holds it."""
    while True:
        stage = parent / f"{STAGE_PREFIX}{uuid.uuid4().hex}"
        stage.mkdir()
        try:
            descriptor = _open(stage)
        except FileNotFoundError:
            continue  # taken for a leftover before it was held
        with contextlib.suppress(OSError):
            _lock(descriptor)
        if stage.exists():
            return stage, descriptor
        os.close(descriptor)


def _remove_leftover(path: Path, *, is_sole_writer: bool) -> bool:
    try:
        descriptor = _open(path)
    except OSError:
        return False  # gone meanwhile, a link, or another user's
    try:
        if _is_held(descriptor, if_unknown=not is_sole_writer):
            return False
        shutil.rmtree(path, ignore_errors=not is_sole_writer)
    finally:
        os.close(descriptor)
    return True


def _is_held(descriptor: int, *, if_unknown: bool) -> bool:
    """Whether another holds the directory; if not, the descriptor now does."""
    try:
        _lock(descriptor)
    except BlockingIOError:
        return True
    except OSError:
        return if_unknown
    return False


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock(descriptor: int) -> None:
    """Raises BlockingIOError if somebody holds the directory, another OSError if its filesystem has no such lock."""
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
