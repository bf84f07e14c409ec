"""How anything gets onto disk: staged beside its place, flushed, then one rename. A final name is whole or absent.

Not a place for what is written; callers pass a function that fills a directory.
"""

import contextlib
import errno
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from loratory.errors import ResourceError, RunError
from loratory.run.stage import set_aside, staging

_CHUNK_BYTES = 1 << 20
_OS_ERROR = re.compile(r"os error (\d+)")


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def fsync_directory(path: Path) -> None:
    """Flush a directory's entries (names, renames) to the device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(stage: Path) -> None:
    """Make every file below `stage` readable by others (0644) and flush files and directories to the device."""
    for folder, _, names in os.walk(stage, topdown=False):
        for name in names:
            file = Path(folder, name)
            file.chmod(0o644)  # safetensors creates 0600
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_directory(Path(folder))


def move_into_place(stage: Path, target: Path) -> None:
    """Commit a sealed stage: one rename and a flush of the parent. The target must not exist."""
    if target.exists():
        raise FileExistsError(errno.EEXIST, "already exists", str(target))
    stage.rename(target)
    fsync_directory(target.parent)


def publish_directory(target: Path, write: Callable[[Path], None], *, overwrite: bool = False) -> None:
    """Publish a directory under its final name only when it is complete and on the device.

    Args:
        target: The final name; its parent is created when missing.
        write: Fills the staging directory it is given. If it raises, or the process is told to end (Ctrl-C, SIGTERM),
            nothing is left behind.
        overwrite: Replace a directory that is there, once the new one is complete.

    Raises:
        RunError: `target` exists already and is not an empty directory.
    """
    if target.exists() and not overwrite:
        if not target.is_dir() or any(target.iterdir()):
            raise RunError(
                f"{target} exists already and is not empty; nothing was written. "
                "Choose another output name or remove it first."
            )
        target.rmdir()
    target.parent.mkdir(parents=True, exist_ok=True)
    with staging(target.parent) as stage:
        write(stage)
        seal(stage)
        with set_aside(target) if overwrite and target.exists() else contextlib.nullcontext():
            move_into_place(stage, target)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that readers see the old content or the new, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def storage_fault(error: OSError | SafetensorError) -> str | None:
    """The system's words for a write that failed (disk full, quota, I/O error), or None when it is another fault."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    match = _OS_ERROR.search(str(error))  # safetensors reports the system's error in its text only
    return os.strerror(int(match.group(1))) if match else None


@contextmanager
def storage_faults(told: Callable[[str], str]) -> Iterator[None]:
    """Raise a write that the system refuses as a `ResourceError`; other faults go through.

    Args:
        told: The message, given the system's words.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        fault = storage_fault(error)
        if fault is None:
            raise
        raise ResourceError(told(fault)) from error
