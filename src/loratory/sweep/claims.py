"""Who works on what in a study's folder: locks that the system gives back when a process is gone, however it ended."""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Claims:
    """The claims of this process.

    Args:
        folder: Where the lock files are; workers that share it see each other's claims, others never do.

    Attributes:
        place: Names the folder, so that workers of other machines know which trials are not theirs to adopt.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int] = {}
        folder.mkdir(parents=True, exist_ok=True)
        with self.listing():
            file = folder / "place"
            if not file.is_file():
                file.write_text(uuid.uuid4().hex, encoding="utf-8")
            self.place = file.read_text(encoding="utf-8")

    def claim(self, what: int | str) -> bool:
        """Claim a trial by its number, or anything by its name; False when it is taken, by this process too."""
        name = _name(what)
        if name in self._held:
            return False
        descriptor = self._open(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._held[name] = descriptor
        return True

    def release(self, what: int | str) -> None:
        """Give a claim back; nothing happens without one."""
        descriptor = self._held.pop(_name(what), None)
        if descriptor is not None:
            os.close(descriptor)

    @contextmanager
    def listing(self) -> Iterator[None]:
        """Wait for, and hold, the right to change the list of trials."""
        descriptor = self._open("listing")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _open(self, name: str) -> int:
        return os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _name(what: int | str) -> str:
    return f"trial-{what:03}" if isinstance(what, int) else what
