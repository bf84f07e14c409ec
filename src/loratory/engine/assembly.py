"""Puts the parts of a run together: scorer, step, evaluator, saver, logs, display, and from them the loop."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from loratory.config import RunConfig, TrainConfig
from loratory.engine import random_state
from loratory.engine.artefacts import ModelArtefacts
from loratory.engine.display import make_display
from loratory.engine.evaluate import Evaluator
from loratory.engine.loop import LoopParts, TrainingLoop
from loratory.engine.memory_budget import MemoryRoom, PassMemory
from loratory.engine.optimizer import NamedOptimizer, trainable_parameters
from loratory.engine.order import BatchPlan
from loratory.engine.precision import autocast_dtype
from loratory.engine.prepare import PreparedRows
from loratory.engine.probe import ProbeParts, run_probe
from loratory.engine.progress import Progress
from loratory.engine.random_state import RandomState
from loratory.engine.ranks import Ranks
from loratory.engine.rows import MicroBatching
from loratory.engine.run_identity import RunIdentity
from loratory.engine.saver import Saver
from loratory.engine.schedule import make_schedule
from loratory.engine.scoring import choose_micro_batching, choose_scorer, measure_memory
from loratory.engine.state import TrainingState, save_optimizer, save_training_state
from loratory.engine.step import TrainStep
from loratory.engine.trackers import Tracker, make_trackers
from loratory.objective import Objective
from loratory.run import MetricsLog, RunDirectory
from loratory.tree.scorer import Scorer

# A run of fewer passes is over about as soon as its probe, and finds out as much.
_MIN_PROBED_PASSES = 16


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
    """Build the loop of a run; a new run's worst case is tried before anything is logged.

    Args:
        materials: What the rooms have produced.
        progress: Where the run stands.
        stack: Closes logs and trackers.

    Raises:
        MissingExtraError: A tracker's library is not installed.
        IntegrityError: metrics.jsonl does not hold what the checkpoint counts.
        ResourceError: Memory or disk will not do for the longest batches; see `run_probe`.
    """
    section, ranks, model = materials.config.train, materials.ranks, materials.artefacts.model
    scorer = choose_scorer(model, section, ranks.device)
    materials.note(f"scoring path: {scorer.path} ({scorer.reason})")
    room, memory = measure_memory(model, scorer, materials.rows, section, ranks)
    batching = choose_micro_batching(
        section, progress, scorer=scorer, room=room, memory=memory, ranks=ranks, note=materials.note
    )
    plan = _plan(section, materials.rows)
    schedule = make_schedule(section, plan.total_steps(num_epochs=section.num_epochs, max_steps=section.max_steps))
    step = _step(materials, scorer, batching, progress)
    evaluator = _evaluator(materials, scorer, batching)
    num_passes = _num_passes(materials, plan, batching) * schedule.total_steps
    if section.probe and not progress.step and num_passes >= _MIN_PROBED_PASSES:
        materials.note(run_probe(_probe(materials, batching, step, evaluator, room, memory)))
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
        step=step,
        optimizer=materials.optimizer,
        evaluator=evaluator,
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


def _num_passes(materials: Materials, plan: BatchPlan, batching: MicroBatching) -> float:
    """Forward passes of the first step, on average over the ranks."""
    ranks = materials.ranks
    passes = batching.cut(ranks.share([materials.rows.train[i] for i in plan.rows(0)]))
    return ranks.sum([len(passes)])[0] / ranks.num


def _probe(
    materials: Materials,
    batching: MicroBatching,
    step: TrainStep,
    evaluator: Evaluator | None,
    room: MemoryRoom,
    memory: PassMemory,
) -> ProbeParts:
    ranks, model = materials.ranks, materials.artefacts.model
    write = _checkpoint_writer(materials)
    return ProbeParts(
        rows=materials.rows.train,
        max_rows=-(-materials.config.train.batch_size // ranks.num),
        micro_batching=batching,
        step=step,
        evaluator=evaluator,
        parameters=trainable_parameters(model),
        optimizer=materials.optimizer,
        store=materials.run.checkpoints,
        write_checkpoint=lambda folder: write(folder, Progress(), [random_state.capture()]),
        ranks=ranks,
        room=room,
        memory=memory,
        base_bytes=sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad),
    )


def _plan(section: TrainConfig, rows: PreparedRows) -> BatchPlan:
    lengths = [row.num_tokens for row in rows.train] if section.group_by_length else None
    return BatchPlan(
        len(rows.train), section.batch_size, seed=section.seed, group_lengths=lengths, mixture=rows.mixture
    )


def _step(materials: Materials, scorer: Scorer, batching: MicroBatching, progress: Progress) -> TrainStep:
    section, model = materials.config.train, materials.artefacts.model
    step = TrainStep(
        scorer,
        materials.objective,
        parameters=trainable_parameters(model),
        optimizer=materials.optimizer,
        ranks=materials.ranks,
        micro_batching=batching,
        max_grad_norm=section.max_grad_norm,
        autocast_dtype=autocast_dtype(section, model.dtype),
        dump_dir=materials.run.path,
    )
    if progress.step and step.scale.active:
        step.scale.value, step.scale.good_steps = progress.loss_scale, progress.loss_scale_good_steps
    return step


def _evaluator(materials: Materials, scorer: Scorer, batching: MicroBatching) -> Evaluator | None:
    if not materials.rows.validation:
        return None
    section, model = materials.config.train, materials.artefacts.model
    return Evaluator(
        model,
        scorer,
        materials.objective,
        rows=materials.rows.validation,
        ranks=materials.ranks,
        micro_batching=batching,
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
