"""When a save goes wrong the stage is dropped and training goes on; a run that cannot save at all says so and ends."""

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError

from loratory.engine.ranks import Ranks
from loratory.errors import ResourceError
from loratory.run.checkpoints import Checkpoint, CheckpointStore, free_bytes
from loratory.run.commit import storage_fault

_MAX_MISSES = 3


class Saver:
    """Commits checkpoints of a run on the main rank; the others wait and learn the outcome.

    Attributes:
        last_step: Step of the newest checkpoint known to stand; the same on every rank.
    """

    def __init__(
        self,
        store: CheckpointStore,
        *,
        ranks: Ranks,
        identity: Mapping[str, str],
        keep: int,
        warn: Callable[[str], None],
        last_step: int | None = None,
    ) -> None:
        self._store = store
        self._ranks = ranks
        self._identity = identity
        self._keep = keep
        self._warn = warn
        self._misses = 0
        self.last_step = last_step
        self._last: Checkpoint | None = None

    def save(
        self, step: int, write: Callable[[Path], None], *, protect: int | None = None, is_last: bool = False
    ) -> bool:
        """Commit the checkpoint of a step, then rotate.

        Args:
            step: Optimizer steps done. A step that has a checkpoint already is not written again.
            write: Fills the stage; runs on the main rank only.
            protect: A step that rotation spares (the best one).
            is_last: There will be no further chance.

        Returns:
            Whether the checkpoint stands.

        Raises:
            ResourceError: The disk refused the last save, or three in a row.
        """
        if self.last_step == step:
            return True
        fault = self._try(step, write, is_last=is_last) if self._ranks.is_main else None
        is_missed = self._ranks.any(fault is not None)
        if not is_missed:
            self._misses = 0
            self.last_step = step
            if self._ranks.is_main:
                self._store.rotate(keep=self._keep, protect=() if protect is None else (protect,))
            return True
        self._misses += 1
        newest = "none" if self.last_step is None else f"step {self.last_step}"
        message = f"step {step}: checkpoint not saved ({fault or 'see the main process'}); newest: {newest}"
        if is_last or self._misses >= _MAX_MISSES:
            raise ResourceError(
                f"{message}. Make room on the disk of {self._store.root} "
                f"({free_bytes(self._store.root) / 2**20:.0f} MiB free) and go on with --resume."
            )
        self._warn(f"{message}. Training goes on; {_MAX_MISSES - self._misses} more misses end the run.")
        return False

    def _try(self, step: int, write: Callable[[Path], None], *, is_last: bool) -> str | None:
        if self._last is not None and not is_last and not self._store.has_room(self._last.manifest.size_bytes):
            return "too little free space"
        try:
            self._last = self._store.commit(step, write, identity=self._identity, parent_step=self.last_step or 0)
        except (OSError, SafetensorError) as error:
            fault = storage_fault(error)
            if fault is None:
                raise
            return fault
        return None
