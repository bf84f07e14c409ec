"""Puts the parts of a run together: scorer, step, evaluator, saver, logs, display, and from them the loop."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from loratory.config import RunConfig, TrainConfig
from loratory.data.templates import BoundTemplate
from loratory.engine import random_state
from loratory.engine.answer_evaluation import AnswerEvaluator
from loratory.engine.artefacts import ModelArtefacts
from loratory.engine.beginning import Beginning
from loratory.engine.display import make_display
from loratory.engine.evaluate import Evaluator
from loratory.engine.loop import LoopParts, Stops, TrainingLoop
from loratory.engine.memory_budget import MemoryRoom, PassMemory
from loratory.engine.micro_batching import MicroBatching
from loratory.engine.optimizer import NamedOptimizer
from loratory.engine.order import BatchPlan
from loratory.engine.precision import autocast, autocast_dtype
from loratory.engine.prepare import PreparedRows
from loratory.engine.probe import ProbeParts, run_probe
from loratory.engine.progress import Progress
from loratory.engine.random_state import RandomState
from loratory.engine.ranks import Ranks
from loratory.engine.row_source import DataSource, RolloutSource, RowSource
from loratory.engine.run_identity import RunIdentity
from loratory.engine.saver import Saver
from loratory.engine.schedule import make_schedule
from loratory.engine.scoring import choose_micro_batching
from loratory.engine.state import TrainingState, save_optimizer, save_training_state
from loratory.engine.step import TrainStep
from loratory.engine.trackers import Tracker, make_trackers
from loratory.objective import Objective
from loratory.objective.sampled import Policy, SampledObjective
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
        template: The bound template.
        beginning: The policy before its first step: scorer, memory, and the policy that answers are measured against.
        checkpoint: The folder that the run goes on from.
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
    template: BoundTemplate
    beginning: Beginning
    checkpoint: Path | None


def assemble_loop(
    materials: Materials, progress: Progress, stack: ExitStack, stops: Stops | None = None
) -> TrainingLoop:
    """Build the loop of a run; a new run's worst case is tried before anything is logged.

    Args:
        materials: What the rooms have produced.
        progress: Where the run stands.
        stack: Closes logs and trackers.
        stops: What ends the loop before its last step.

    Raises:
        MissingExtraError: A tracker's library is not installed.
        IntegrityError: metrics.jsonl does not hold what the checkpoint counts.
        ResourceError: Memory or disk will not do for the longest batches; see `run_probe`.
    """
    section, ranks = materials.config.train, materials.ranks
    scorer, room, memory = materials.beginning.scorer, materials.beginning.room, materials.beginning.memory
    batching = choose_micro_batching(
        section, progress, scorer=scorer, room=room, memory=memory, ranks=ranks, note=materials.note
    )
    plan = _plan(section, materials.rows, materials.objective)
    policy = _policy(materials, scorer, batching)
    source = _source(materials, plan, policy)
    schedule = make_schedule(section, _total_steps(section, source))
    materials.artefacts.hook.begin(schedule.total_steps)
    step = _step(materials, scorer, batching, progress)
    evaluator = _evaluator(materials, scorer, batching, policy)
    is_probed = section.probe and not progress.step and policy is None
    if is_probed and _num_passes(materials, plan, batching) * schedule.total_steps >= _MIN_PROBED_PASSES:
        materials.note(run_probe(_probe(materials, batching, step, evaluator, room, memory, source)))
    metrics = None
    if ranks.is_main:
        metrics = stack.enter_context(MetricsLog(materials.run.metrics, keep_lines=progress.metrics_lines))
    display = make_display(
        materials.console, total_steps=schedule.total_steps, first_step=progress.step, is_main=ranks.is_main
    )
    parts = LoopParts(
        source=source,
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
        write_checkpoint=_checkpoint_writer(materials, source),
        metrics=metrics,
        trackers=_trackers(materials, progress, stack) if ranks.is_main else (),
        display=display,
        ranks=ranks,
        summary=materials.objective.summary,
    )
    return TrainingLoop(parts, section, progress, stops)


def _num_passes(materials: Materials, plan: BatchPlan, batching: MicroBatching) -> float:
    """Forward passes of the first step, on average over the ranks."""
    ranks = materials.ranks
    passes = batching.cut(ranks.share([materials.rows.train[i] for i in plan.rows(0)]))
    return ranks.sum([len(passes)])[0] / ranks.num


def _probe(
    materials: Materials,
    batching: MicroBatching,
    step: TrainStep,
    evaluator: Evaluator | AnswerEvaluator | None,
    room: MemoryRoom,
    memory: PassMemory,
    source: RowSource,
) -> ProbeParts:
    ranks, model = materials.ranks, materials.artefacts.model
    write = _checkpoint_writer(materials, source)
    return ProbeParts(
        rows=materials.rows.train,
        max_rows=-(-materials.config.train.batch_size // ranks.num),
        micro_batching=batching,
        step=step,
        evaluator=evaluator if isinstance(evaluator, Evaluator) else None,
        parameters=materials.artefacts.parameters(),
        optimizer=materials.optimizer,
        store=materials.run.checkpoints,
        write_checkpoint=lambda folder: write(folder, Progress(), [random_state.capture()]),
        ranks=ranks,
        room=room,
        memory=memory,
        base_bytes=sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad),
    )


def _plan(section: TrainConfig, rows: PreparedRows, objective: Objective) -> BatchPlan:
    """Rows of each optimizer step, or of each rollout."""
    is_sampled = isinstance(objective, SampledObjective)
    lengths = [row.num_tokens for row in rows.train] if section.group_by_length and not is_sampled else None
    size = objective.prompts_per_rollout if isinstance(objective, SampledObjective) else section.batch_size
    return BatchPlan(len(rows.train), size, seed=section.seed, group_lengths=lengths, mixture=rows.mixture)


def _policy(materials: Materials, scorer: Scorer, batching: MicroBatching) -> Policy | None:
    """The model as one that answers, for objectives that let it; prompts it cannot answer are refused here."""
    objective, artefacts, reference = materials.objective, materials.artefacts, materials.beginning.reference
    if not isinstance(objective, SampledObjective):
        return None
    assert reference is not None
    section, device = materials.config.train, materials.ranks.device
    policy = Policy(
        model=artefacts.model,
        tokenizer=artefacts.tokenizer,
        template=materials.template,
        scorer=scorer,
        reference=reference,
        seed=section.seed,
        passes=batching.cut,
        precision=lambda: autocast(device, autocast_dtype(section, artefacts.model.dtype)),
        note=materials.note,
    )
    for rows in (materials.rows.train, materials.rows.validation):
        objective.check_prompts(policy, rows)
    return policy


def _source(materials: Materials, plan: BatchPlan, policy: Policy | None) -> RowSource:
    """Where steps take their rows from; what a resumed run had drawn is taken back."""
    objective = materials.objective
    if policy is None or not isinstance(objective, SampledObjective):
        return DataSource(materials.rows.train, plan)
    source = RolloutSource(
        materials.rows.train,
        plan,
        objective=objective,
        policy=policy,
        ranks=materials.ranks,
        seed=materials.config.train.seed,
    )
    if materials.checkpoint is not None:
        source.load(materials.checkpoint)
    return source


def _total_steps(section: TrainConfig, source: RowSource) -> int:
    """Optimizer steps of the run; a part of an epoch is rounded up to whole steps."""
    if section.max_steps is not None:
        return section.max_steps
    return max(1, math.ceil(round(section.num_epochs * source.steps_per_epoch, 6)))


def _step(materials: Materials, scorer: Scorer, batching: MicroBatching, progress: Progress) -> TrainStep:
    section, model = materials.config.train, materials.artefacts.model
    step = TrainStep(
        scorer,
        materials.objective,
        parameters=materials.artefacts.parameters(),
        optimizer=materials.optimizer,
        ranks=materials.ranks,
        micro_batching=batching,
        max_grad_norm=section.max_grad_norm,
        autocast_dtype=autocast_dtype(section, model.dtype),
        dump_dir=materials.run.path,
        hook=materials.artefacts.hook,
    )
    if progress.step and step.scale.active:
        step.scale.value, step.scale.good_steps = progress.loss_scale, progress.loss_scale_good_steps
    return step


def _evaluator(
    materials: Materials, scorer: Scorer, batching: MicroBatching, policy: Policy | None
) -> Evaluator | AnswerEvaluator | None:
    if not materials.rows.validation:
        return None
    if policy is not None and isinstance(materials.objective, SampledObjective):
        return AnswerEvaluator(materials.objective, policy, prompts=materials.rows.validation, ranks=materials.ranks)
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


def _checkpoint_writer(
    materials: Materials, source: RowSource
) -> Callable[[Path, Progress, Sequence[RandomState]], None]:
    def write(folder: Path, progress: Progress, generators: Sequence[RandomState]) -> None:
        materials.artefacts.write_checkpoint(folder)
        save_optimizer(folder, materials.optimizer)
        source.save(folder)
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
