"""Puts the parts of a run together: scorer, step, evaluator, saver, logs, display, and from them the loop."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from loratory.config import RunConfig, TrainConfig
from loratory.engine.artefacts import ModelArtefacts
from loratory.engine.display import make_display
from loratory.engine.evaluate import Evaluator
from loratory.engine.loop import LoopParts, TrainingLoop
from loratory.engine.optimizer import NamedOptimizer, trainable_parameters
from loratory.engine.order import BatchPlan
from loratory.engine.precision import autocast_dtype
from loratory.engine.prepare import PreparedRows
from loratory.engine.progress import Progress
from loratory.engine.random_state import RandomState
from loratory.engine.ranks import Ranks
from loratory.engine.rows import MicroBatching
from loratory.engine.run_identity import RunIdentity
from loratory.engine.saver import Saver
from loratory.engine.schedule import make_schedule
from loratory.engine.state import TrainingState, save_optimizer, save_training_state
from loratory.engine.step import TrainStep
from loratory.engine.trackers import Tracker, make_trackers
from loratory.objective import Objective
from loratory.run import MetricsLog, RunDirectory
from loratory.tree.scorer import Scorer
from loratory.tree.scorers import make_scorer

# A CPU's matrix units are busy from about 64 rows on, so more tokens per pass only cost memory there.
_CPU_TOKENS_PER_PASS = 2048
_GPU_TOKENS_PER_PASS = 8192


@dataclass(frozen=True, slots=True, eq=False)
class Materials:
    """What the rooms have produced for a run.

    Attributes:
        config: The whole configuration.
        run: The open run directory.
        ranks: The processes.
        console: Where progress is shown.
        note: Shows one line.
        artefacts: Model, tokenizer and how they are written.
        optimizer: Over the trainable parameters.
        rows: Training and validation rows.
        objective: What is learnt.
        identity: What resume compares.
    """

    config: RunConfig
    run: RunDirectory
    ranks: Ranks
    console: Console
    note: Callable[[str], None]
    artefacts: ModelArtefacts
    optimizer: NamedOptimizer
    rows: PreparedRows
    objective: Objective
    identity: RunIdentity


def assemble_loop(materials: Materials, progress: Progress, stack: ExitStack) -> TrainingLoop:
    """Build the loop of a run.

    Args:
        materials: What the rooms have produced.
        progress: Where the run stands.
        stack: Closes logs and trackers.

    Raises:
        MissingExtraError: A tracker's library is not installed.
        IntegrityError: metrics.jsonl does not hold what the checkpoint counts.
    """
    section, ranks = materials.config.train, materials.ranks
    scorer = _scorer(materials)
    materials.note(f"scoring path: {scorer.path} ({scorer.reason})")
    plan = _plan(section, materials.rows)
    schedule = make_schedule(section, plan.total_steps(num_epochs=section.num_epochs, max_steps=section.max_steps))
    metrics = None
    if ranks.is_main:
        metrics = stack.enter_context(MetricsLog(materials.run.metrics, keep_lines=progress.metrics_lines))
    display = make_display(
        materials.console, total_steps=schedule.total_steps, first_step=progress.step, is_main=ranks.is_main
    )
    parts = LoopParts(
        rows=materials.rows.train,
        plan=plan,
        schedule=schedule,
        step=_step(materials, scorer, progress),
        optimizer=materials.optimizer,
        evaluator=_evaluator(materials, scorer),
        saver=Saver(
            materials.run.checkpoints,
            ranks=ranks,
            identity=materials.identity.digests(),
            keep=section.save_total_limit,
            warn=display.note,
            last_step=progress.step or None,
        ),
        write_checkpoint=_checkpoint_writer(materials),
        metrics=metrics,
        trackers=_trackers(materials, progress, stack) if ranks.is_main else (),
        display=display,
        ranks=ranks,
    )
    return TrainingLoop(parts, section, progress)


def micro_batching(section: TrainConfig, *, is_gpu: bool) -> MicroBatching:
    """Rows per pass as configured; without a setting, a token budget that suits the device."""
    budget = section.max_tokens_per_micro_batch
    if budget is None and section.micro_batch_size is None:
        budget = _GPU_TOKENS_PER_PASS if is_gpu else _CPU_TOKENS_PER_PASS
    return MicroBatching(section.micro_batch_size, budget)


def _scorer(materials: Materials) -> Scorer:
    model = materials.artefacts.model
    # The tree's own kernels take tensors as they are; autocast reaches only the model's ordinary forward.
    is_mixed = autocast_dtype(materials.config.train, model.dtype) is not None
    return make_scorer(model, path="padded" if is_mixed else "auto")


def _plan(section: TrainConfig, rows: PreparedRows) -> BatchPlan:
    lengths = [row.num_tokens for row in rows.train] if section.group_by_length else None
    return BatchPlan(
        len(rows.train), section.batch_size, seed=section.seed, group_lengths=lengths, mixture=rows.mixture
    )


def _step(materials: Materials, scorer: Scorer, progress: Progress) -> TrainStep:
    section, model = materials.config.train, materials.artefacts.model
    step = TrainStep(
        scorer,
        materials.objective,
        parameters=trainable_parameters(model),
        optimizer=materials.optimizer,
        ranks=materials.ranks,
        micro_batching=micro_batching(section, is_gpu=materials.ranks.device.type != "cpu"),
        max_grad_norm=section.max_grad_norm,
        autocast_dtype=autocast_dtype(section, model.dtype),
        dump_dir=materials.run.path,
    )
    if progress.step and step.scale.active:
        step.scale.value, step.scale.good_steps = progress.loss_scale, progress.loss_scale_good_steps
    return step


def _evaluator(materials: Materials, scorer: Scorer) -> Evaluator | None:
    if not materials.rows.validation:
        return None
    section, model = materials.config.train, materials.artefacts.model
    return Evaluator(
        model,
        scorer,
        materials.objective,
        rows=materials.rows.validation,
        ranks=materials.ranks,
        micro_batching=micro_batching(section, is_gpu=materials.ranks.device.type != "cpu"),
        autocast_dtype=autocast_dtype(section, model.dtype),
    )


def _checkpoint_writer(materials: Materials) -> Callable[[Path, Progress, Sequence[RandomState]], None]:
    def write(folder: Path, progress: Progress, generators: Sequence[RandomState]) -> None:
        materials.artefacts.write_checkpoint(folder)
        save_optimizer(folder, materials.optimizer)
        save_training_state(folder, TrainingState(progress, generators, materials.identity.to_json()))

    return write


def _trackers(materials: Materials, progress: Progress, stack: ExitStack) -> list[Tracker]:
    output = materials.config.run
    trackers = make_trackers(
        output.trackers,
        folder=materials.run.path,
        project=output.project,
        run_name=output.name,
        run_id=materials.run.run_id,
        first_step=progress.step,
        config=materials.config.model_dump(mode="json"),
    )
    for tracker in trackers:
        stack.callback(tracker.close)
    return trackers
