"""How a run begins: anew, from its newest sound checkpoint, or not at all because it is finished."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from loratory.config import RunConfig, config_to_yaml
from loratory.engine import random_state
from loratory.engine.artefacts import ModelArtefacts
from loratory.engine.optimizer import NamedOptimizer
from loratory.engine.progress import Progress
from loratory.engine.ranks import Ranks
from loratory.engine.state import TrainingState, load_optimizer, load_training_state
from loratory.errors import IntegrityError
from loratory.run import Checkpoint, Provenance, RunDirectory, write_provenance, write_text

_SHOWN_SKIPPED = 5


@dataclass(frozen=True, slots=True, eq=False)
class StartPoint:
    """Where to go on.

    Attributes:
        checkpoint: Verified; None for a fresh start.
        state: What it holds besides tensors.
    """

    checkpoint: Checkpoint | None
    state: TrainingState | None

    def restore(
        self, artefacts: ModelArtefacts, optimizer: NamedOptimizer, *, ranks: Ranks, note: Callable[[str], None]
    ) -> Progress:
        """Weights, moments and generators of the checkpoint; the generators last, right before the loop."""
        if self.checkpoint is None or self.state is None:
            return Progress()
        artefacts.load_checkpoint(self.checkpoint.path)
        load_optimizer(self.checkpoint.path, optimizer)
        if len(self.state.random) == ranks.num:
            random_state.restore(self.state.random[ranks.index])
        else:
            note(
                f"the checkpoint was written by {len(self.state.random)} processes and is resumed by {ranks.num}: "
                "the data order stays, dropout does not repeat exactly"
            )
        note(f"resuming after step {self.state.progress.step}")
        return self.state.progress


def open_run(path: Path, *, resume: bool, overwrite: bool, ranks: Ranks, stack: ExitStack) -> RunDirectory:
    """Open the run directory; the main rank holds its lock until `stack` closes.

    Resuming what was never begun begins it.

    Raises:
        RunError: See `RunDirectory`.
    """
    is_begun = resume and (path / "provenance.json").exists()
    if not ranks.is_main:
        ranks.wait()
        return RunDirectory.read(path) if is_begun else RunDirectory(path, "")
    run = RunDirectory.open(path) if is_begun else RunDirectory.create(path, overwrite=overwrite)
    stack.enter_context(run)
    ranks.wait()
    return run


def start_point(run: RunDirectory, *, resume: bool, ranks: Ranks, note: Callable[[str], None]) -> StartPoint:
    """Find the newest sound checkpoint; damaged ones are reported and put aside, never deleted.

    Raises:
        IntegrityError: There are checkpoints and none of them is sound.
    """
    if not resume:
        return StartPoint(None, None)
    scan = run.checkpoints.scan()
    reasons = [f"{item.path.name} is not used: {item.reason}" for item in scan.skipped]
    for reason in reasons:
        note(reason)
    if scan.newest is None and reasons:
        raise IntegrityError(
            f"{run.path}: no checkpoint is sound:\n" + "\n".join(reasons[:_SHOWN_SKIPPED]) + "\n"
            "Restore one from a backup, or start the run anew under another run.name."
        )
    ranks.wait()
    if ranks.is_main:
        run.checkpoints.recover()
    if scan.newest is None:
        note("no checkpoint yet; starting from the beginning")
        return StartPoint(None, None)
    return StartPoint(scan.newest, load_training_state(scan.newest.path))


def record_run(run: RunDirectory, config: RunConfig, provenance: Provenance) -> None:
    """Write what the run is: configuration (under both names), template contract, provenance."""
    text = config_to_yaml(config)
    write_provenance(run.provenance, provenance)
    write_text(run.template, json.dumps(dict(provenance.template), indent=2, ensure_ascii=False) + "\n")
    write_text(run.config_used, text)
    write_text(run.config, text)
