"""`run_training`: from a configuration to a finished run directory. Joins the rooms; the loop is `engine.loop`."""

import contextlib
import functools
from collections.abc import Generator
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console

from loratory.adapter import AttachedAdapter, attach_adapter
from loratory.adapter.calibration import ROWS as CALIBRATION_ROWS
from loratory.adapter.calibration import original_weights
from loratory.adapter.trainable import TrainableReport
from loratory.config import RunConfig, TrainConfig
from loratory.data.templates import BoundTemplate, bind_template
from loratory.engine import random_state
from loratory.engine.artefacts import ModelArtefacts
from loratory.engine.assembly import Materials, assemble_loop
from loratory.engine.beginning import start_of_policy
from loratory.engine.loop import Stops, TrainingLoop
from loratory.engine.measurement import RunMeasurement
from loratory.engine.memory_budget import used_bytes
from loratory.engine.misfit import refuse_misfit
from loratory.engine.optimizer import make_optimizer
from loratory.engine.peak_memory import PeakMemory
from loratory.engine.prepare import PreparedRows
from loratory.engine.progress import Progress
from loratory.engine.ranks import Ranks
from loratory.engine.ready_rows import ready_rows
from loratory.engine.result import TrainingResult
from loratory.engine.run_identity import RunIdentity, relevant_config
from loratory.engine.shared_base import SharedBase
from loratory.engine.start import StartPoint, open_run, record_run, start_point
from loratory.engine.state import load_training_state
from loratory.engine.step import JoinableStep
from loratory.engine.training_mode import training_mode
from loratory.model import LoadedModel, closes_prompt, load_model, load_tokenizer
from loratory.objective import Objective, make_objective
from loratory.objective.reward_function import NamedRewardFunction
from loratory.objective.sampled import SampledObjective
from loratory.run import Provenance, RunDirectory
from loratory.tree.fused.memory import keep_freed_memory, return_freed_memory


def run_training(
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    reward_function: NamedRewardFunction | None = None,
    console: Console | None = None,
    stop_after_step: int | None = None,
) -> TrainingResult:
    """Train what the configuration describes.

    Args:
        config: The whole run.
        resume: Go on from the newest sound checkpoint. On the same machine the result equals that of an unbroken run
            to the bit (CPU). A run that has not begun is begun; a finished one is left as it is.
        overwrite: Throw away a run of this name.
        trust_remote_code: Allow code from the model's repository.
        reward_function: What an answer is worth, for objectives that learn from rewards.
        console: Where progress is shown; default: standard error.
        stop_after_step: Pause with a checkpoint when this many steps are done; resume goes on as if there had been no
            pause.

    Raises:
        UserError: Configuration, data, model, adapter or run directory cannot be used.
        IntegrityError: Resume under other data, base, template or configuration; or no sound checkpoint.
        NumericsError, ResourceError, InterruptedRunError: See `TrainingLoop`.
    """
    ranks = start_process(config.train)
    console = console if console is not None else Console(stderr=True)
    with contextlib.ExitStack() as stack:
        path = Path(config.run.output_dir) / config.run.name
        run = open_run(path, resume=resume, overwrite=overwrite, ranks=ranks, stack=stack)
        stops = Stops(after_step=stop_after_step)
        session = TrainingSession(config, run, ranks, console, stack, reward_function, stops=stops)
        if resume and run.is_finished:
            return session.finished_result()
        steps = session.steps(resume=resume, trust_remote_code=trust_remote_code)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                result: TrainingResult = end.value
                return result


def start_process(section: TrainConfig) -> Ranks:
    """Set up what is of the whole process: threads, memory, its place among the ranks."""
    if section.num_threads is not None:
        torch.set_num_threads(section.num_threads)
    # Without this, a launch of several processes on a machine without GPU would be several runs of one process each.
    ranks = Ranks(Accelerator(cpu=not torch.accelerator.is_available()))
    return_freed_memory()
    if ranks.device.type == "cpu":
        keep_freed_memory()
    return ranks


class TrainingSession:
    """One run in training, with its run directory open. `run_training` drives one, `engine.together` several."""

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        ranks: Ranks,
        console: Console,
        stack: contextlib.ExitStack,
        reward_function: NamedRewardFunction | None = None,
        *,
        stops: Stops,
        shared: SharedBase | None = None,
    ) -> None:
        self._config = config
        self._run = run
        self._ranks = ranks
        self._console = console
        self._stack = stack
        self._reward_function = reward_function
        self._stops = stops
        self._shared = shared
        self._process_bytes = 0
        self._peak = PeakMemory(ranks.device)
        self._loop: TrainingLoop | None = None

    def joinable(self) -> JoinableStep | None:
        """The next step, if it may be computed in a pass that several runs share."""
        return None if self._loop is None else self._loop.joinable()

    def finished_result(self) -> TrainingResult:
        """The result of a run that was finished before."""
        self._note(f"{self._run.path}: this run is finished; nothing to do. Its result is {self._run.final_model}.")
        newest = self._run.checkpoints.scan().newest
        progress = load_training_state(newest.path).progress if newest else Progress()
        return self._result(progress, report=None)

    def steps(self, *, resume: bool, trust_remote_code: bool) -> Generator[None, None, TrainingResult]:
        """Train; yields after each optimizer step and returns the result."""
        config = self._config
        start = start_point(self._run, resume=resume, ranks=self._ranks, note=self._note)
        reward = self._reward_function
        objective = make_objective(
            config.objective,
            batch_size=config.train.batch_size,
            reward_function=None if reward is None else reward.function,
        )
        refuse_misfit(config, head=objective.head(seed=config.train.seed))
        template = bind_template(
            config.data.template,
            load_tokenizer(config.model, trust_remote_code=trust_remote_code),
            train_on_inputs=config.data.train_on_inputs,
            add_eos_token=config.data.add_eos_token,
            closes_prompt=closes_prompt(config.model),
        )
        rows = ready_rows(config, template, objective, ranks=self._ranks, note=self._note)
        for line in (*rows.notes, f"{len(rows.train)} training rows, {len(rows.validation)} validation rows"):
            self._note(line)
        found = objective.learn_labels(rows.train, rows.validation, is_split=config.data.validation is None)
        if found is not None:
            self._note(found)
        self._process_bytes = used_bytes(self._ranks.device)
        random_state.seed_everything(config.train.seed + self._ranks.index)
        load = functools.partial(
            load_model,
            config.model,
            quantization=config.quantization,
            device=self._ranks.device,
            trust_remote_code=trust_remote_code,
            head=objective.head(seed=config.train.seed),
        )
        loaded = load() if self._shared is None else self._shared.take(load)
        relevant = relevant_config(config)
        if reward is not None:
            relevant["reward_function"] = f"{reward.path} sha256 {reward.source_sha256}"
        identity = RunIdentity(relevant, loaded.identity, rows.fingerprints, template.contract())
        if start.state is not None:
            identity.refuse_changes(start.state.identity)
        return (yield from self._train_model(loaded, start, rows, objective, template, identity))

    def _train_model(
        self,
        loaded: LoadedModel,
        start: StartPoint,
        rows: PreparedRows,
        objective: Objective,
        template: BoundTemplate,
        identity: RunIdentity,
    ) -> Generator[None, None, TrainingResult]:
        config = self._config
        attached = self._attach(loaded, rows)
        if self._ranks.is_main:
            record_run(self._run, config, self._provenance(identity, attached.report))
        beside = objective.attach(attached.model, seed=config.train.seed)
        artefacts = ModelArtefacts(attached.model, loaded.tokenizer, loaded.identity, template.contract(), beside)
        with training_mode(attached.model, config.train):
            self._ranks.copy_from_main(artefacts.parameters().values())
            optimizer = make_optimizer(artefacts.parameters(), config.train)
            beginning = start_of_policy(config, artefacts, rows, objective, ranks=self._ranks, note=self._note)
            progress = start.restore(artefacts, optimizer, ranks=self._ranks, note=self._note)
            materials = Materials(
                config=config,
                run=self._run,
                ranks=self._ranks,
                console=self._console,
                note=self._note,
                artefacts=artefacts,
                optimizer=optimizer,
                rows=beginning.rows,
                objective=objective,
                identity=identity,
                template=template,
                beginning=beginning,
                checkpoint=start.checkpoint.path if start.checkpoint is not None else None,
            )
            loop = self._loop = assemble_loop(materials, progress, self._stack, self._stops)
            measurement = RunMeasurement(
                config,
                self._run,
                artefacts,
                beginning,
                progress,
                total_steps=loop.total_steps,
                ranks=self._ranks,
                process_bytes=self._process_bytes,
                peak=self._peak,
                is_sampled=isinstance(objective, SampledObjective),
                is_alone=self._shared is None,
            )
            yield from loop.steps()
        if not loop.is_finished:
            self._note(f"paused after step {progress.step} of {loop.total_steps}")
            return self._result(progress, report=attached.report, is_paused=True)
        if self._ranks.is_main:
            self._publish(artefacts, progress)
            newest = self._run.checkpoints.path(progress.step)
            measurement.end(loop.pace, newest, note=self._note)
        self._ranks.wait()
        return self._result(progress, report=attached.report)

    def _attach(self, loaded: LoadedModel, rows: PreparedRows) -> AttachedAdapter:
        section = self._config.adapter
        attached = attach_adapter(
            loaded.model,
            section,
            seed=self._config.train.seed,
            base_identity=loaded.identity,
            new_modules=loaded.new_modules,
            calibration=[sequence for row in rows.train[:CALIBRATION_ROWS] for sequence in row.sequences],
            original_weights=original_weights(loaded.source),
        )
        if section.preset is not None:
            self._note(f"preset {section.preset}: rank {section.rank}, dropout {section.dropout:g}")
        if self._shared is not None:
            self._shared.refuse_changes()
        self._note(attached.report.describe())
        return attached

    def _publish(self, artefacts: ModelArtefacts, progress: Progress) -> None:
        best = progress.best_step
        if self._config.train.keep_best and best is not None and best != progress.step:
            artefacts.load_checkpoint(self._run.checkpoints.load(best).path)
            self._note(f"the final model is that of step {best}, evaluation loss {progress.best_loss:.4f}")
        artefacts.publish_final(self._run.final_model)

    def _provenance(self, identity: RunIdentity, report: TrainableReport) -> Provenance:
        return Provenance(
            run_id=self._run.run_id,
            base_identity=identity.base,
            data=identity.data,
            template=identity.template,
            threads=torch.get_num_threads(),
            num_processes=self._ranks.num,
            trainable_parameters=report.trainable,
            total_parameters=report.total,
        )

    def _result(self, progress: Progress, *, report: TrainableReport | None, is_paused: bool = False) -> TrainingResult:
        return TrainingResult(
            run_dir=self._run.path,
            final_model=self._run.final_model,
            step=progress.step,
            loss=progress.last_loss,
            best_step=progress.best_step,
            best_loss=progress.best_loss,
            report=report,
            was_finished=report is None,
            is_paused=is_paused,
        )

    def _note(self, text: str) -> None:
        if self._ranks.is_main:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
