"""The checkpoints of one run: committed by one rename, verified before use, rotated only after a newer one stands.

Law: at every instant, also under kill -9 or a full disk, the newest committed checkpoint is complete and readable.
"""

import os
import re
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from loratory.errors import IntegrityError
from loratory.run.commit import fsync_directory, move_into_place, seal
from loratory.run.manifest import MANIFEST_NAME, Manifest, describe_files, to_json, verify
from loratory.run.stage import clean, discard, staging

QUARANTINE = "quarantine"
_NAME = re.compile(r"checkpoint-(\d+)")
_FREE_SPACE_FACTOR = 2.2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed and verified checkpoint."""

    path: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Skipped:
    """A checkpoint directory that resume does not use, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What is there to resume from.

    Attributes:
        newest: The newest checkpoint that verifies, if any.
        skipped: Newer directories that do not, newest first.
    """

    newest: Checkpoint | None
    skipped: tuple[Skipped, ...]


class CheckpointStore:
    """`checkpoint-N` directories below one run directory. Methods that write need the run's lock."""

    def __init__(self, root: Path, run_id: str) -> None:
        self.root = root
        self.run_id = run_id

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step stands."""
        return self.root / f"checkpoint-{step}"

    def steps(self) -> list[int]:
        """Steps that have a directory, ascending, verified or not."""
        matches = (_NAME.fullmatch(p.name) for p in self.root.iterdir() if p.is_dir())
        return sorted(int(m.group(1)) for m in matches if m)

    def load(self, step: int) -> Checkpoint:
        """Verify one checkpoint.

        Raises:
            IntegrityError: It is damaged or belongs to another run.
        """
        path = self.path(step)
        manifest = verify(path)
        if manifest.run_id != self.run_id:
            raise IntegrityError(f"{path}: written by another run ({manifest.run_id})")
        if manifest.step != step:
            raise IntegrityError(f"{path}: its manifest says step {manifest.step}")
        return Checkpoint(path, manifest)

    def scan(self) -> Scan:
        """Find the newest checkpoint that verifies; order is by step, never by file times."""
        skipped: list[Skipped] = []
        for step in reversed(self.steps()):
            try:
                return Scan(self.load(step), tuple(skipped))
            except IntegrityError as error:
                skipped.append(Skipped(self.path(step), str(error)))
        return Scan(None, tuple(skipped))

    def recover(self) -> Scan:
        """Start-up of a writer: remove stages and trash, put unusable newer checkpoints aside, never delete them."""
        clean(self.root, is_sole_writer=True)
        scan = self.scan()
        for item in scan.skipped:
            self._quarantine(item.path)
        return scan

    def has_room(self, last_size_bytes: int) -> bool:
        """Whether the filesystem has 2.2 times the last checkpoint free."""
        return free_bytes(self.root) >= _FREE_SPACE_FACTOR * last_size_bytes

    def commit(
        self, step: int, write: Callable[[Path], None], *, identity: Mapping[str, str], parent_step: int
    ) -> Checkpoint:
        """Write and commit the checkpoint of a step; on any failure the stage is gone and nothing else changed.

        Args:
            step: Optimizer steps done.
            write: Fills the staging directory.
            identity: Digests of what must be equal on resume.
            parent_step: The checkpoint before this one.
        """
        with staging(self.root) as stage:
            write(stage)
            manifest = Manifest(self.run_id, step, parent_step, identity, describe_files(stage))
            (stage / MANIFEST_NAME).write_text(to_json(manifest), encoding="utf-8")
            seal(stage)
            target = self.path(step)
            if target.exists():
                self._quarantine(target)
            move_into_place(stage, target)
        return Checkpoint(target, manifest)

    def rotate(self, *, keep: int, protect: Collection[int] = ()) -> list[int]:
        """Remove the oldest checkpoints beyond `keep`, sparing `protect`; returns the steps removed."""
        surplus = [step for step in self.steps()[:-keep] if step not in protect]
        for step in surplus:
            discard(self.path(step))
        return surplus

    def _quarantine(self, path: Path) -> None:
        folder = self.root / QUARANTINE
        folder.mkdir(exist_ok=True)
        path.rename(folder / f"{path.name}-{uuid.uuid4().hex[:8]}")
        fsync_directory(self.root)


def free_bytes(path: Path) -> int:
    """Bytes that an ordinary user may still write on the filesystem of `path`."""
    stats = os.statvfs(path)
    return stats.f_bavail * stats.f_frsize
