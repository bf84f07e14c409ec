"""`run_training`: from a configuration to a finished run directory. Joins the rooms; the loop is `engine.loop`."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import PeftModel
from rich.console import Console
from safetensors import SafetensorError
from transformers import PreTrainedModel

from loratory.adapter import attach_adapter
from loratory.adapter.calibration import ROWS as CALIBRATION_ROWS
from loratory.adapter.calibration import original_weights
from loratory.adapter.trainable import TrainableReport
from loratory.config import RunConfig, TrainConfig
from loratory.data.templates import BoundTemplate, bind_template
from loratory.engine import random_state
from loratory.engine.artefacts import ModelArtefacts
from loratory.engine.assembly import Materials, assemble_loop
from loratory.engine.beginning import start_of_policy
from loratory.engine.measurement import RunMeasurement
from loratory.engine.memory_budget import used_bytes
from loratory.engine.optimizer import NamedOptimizer, make_optimizer
from loratory.engine.prepare import PreparedRows
from loratory.engine.progress import Progress
from loratory.engine.ranks import Ranks
from loratory.engine.ready_rows import ready_rows
from loratory.engine.run_identity import RunIdentity, relevant_config
from loratory.engine.start import StartPoint, open_run, record_run, start_point
from loratory.engine.state import load_optimizer, load_training_state
from loratory.errors import ResourceError
from loratory.model import LoadedModel, closes_prompt, load_model, load_tokenizer
from loratory.objective import Objective, make_objective
from loratory.objective.reward_function import NamedRewardFunction
from loratory.objective.sampled import SampledObjective
from loratory.run import Provenance, RunDirectory, publish_directory
from loratory.run.commit import storage_fault
from loratory.tree.fused.memory import keep_freed_memory


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        run_dir: The run directory.
        final_model: The published adapter or model.
        step: Optimizer steps done.
        loss: Training loss of the last logged steps, in nats per supervised token for SFT.
        best_step: Step whose weights are in `final_model` if a best one was kept, by evaluation loss.
        best_loss: That loss.
        report: What was trained; None when nothing was, because the run was finished already.
        was_finished: The run had been finished before.
    """

    run_dir: Path
    final_model: Path
    step: int
    loss: float | None
    best_step: int | None
    best_loss: float | None
    report: TrainableReport | None
    was_finished: bool = False


def run_training(
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    reward_function: NamedRewardFunction | None = None,
    console: Console | None = None,
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

    Raises:
        UserError: Configuration, data, model, adapter or run directory cannot be used.
        IntegrityError: Resume under other data, base, template or configuration; or no sound checkpoint.
        NumericsError, ResourceError, InterruptedRunError: See `TrainingLoop`.
    """
    if config.train.num_threads is not None:
        torch.set_num_threads(config.train.num_threads)
    # Without this, a launch of several processes on a machine without GPU would be several runs of one process each.
    ranks = Ranks(Accelerator(cpu=not torch.accelerator.is_available()))
    if ranks.device.type == "cpu":
        keep_freed_memory()
    console = console if console is not None else Console(stderr=True)
    with contextlib.ExitStack() as stack:
        path = Path(config.run.output_dir) / config.run.name
        run = open_run(path, resume=resume, overwrite=overwrite, ranks=ranks, stack=stack)
        session = _Session(config, run, ranks, console, stack, reward_function)
        if resume and run.is_finished:
            return session.finished_result()
        return session.train(resume=resume, trust_remote_code=trust_remote_code)


class _Session:
    """One call of `run_training` with its run directory open."""

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        ranks: Ranks,
        console: Console,
        stack: contextlib.ExitStack,
        reward_function: NamedRewardFunction | None,
    ) -> None:
        self._config = config
        self._run = run
        self._ranks = ranks
        self._console = console
        self._stack = stack
        self._reward_function = reward_function
        self._process_bytes = 0

    def finished_result(self) -> TrainingResult:
        self._note(f"{self._run.path}: this run is finished; nothing to do. Its result is {self._run.final_model}.")
        newest = self._run.checkpoints.scan().newest
        progress = load_training_state(newest.path).progress if newest else Progress()
        return self._result(progress, report=None)

    def train(self, *, resume: bool, trust_remote_code: bool) -> TrainingResult:
        config = self._config
        start = start_point(self._run, resume=resume, ranks=self._ranks, note=self._note)
        reward = self._reward_function
        objective = make_objective(
            config.objective,
            batch_size=config.train.batch_size,
            reward_function=None if reward is None else reward.function,
        )
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
        loaded = load_model(
            config.model,
            quantization=config.quantization,
            device=self._ranks.device,
            trust_remote_code=trust_remote_code,
            head=objective.head(seed=config.train.seed),
        )
        relevant = relevant_config(config)
        if reward is not None:
            relevant["reward_function"] = f"{reward.path} sha256 {reward.source_sha256}"
        identity = RunIdentity(relevant, loaded.identity, rows.fingerprints, template.contract())
        if start.state is not None:
            identity.refuse_changes(start.state.identity)
        return self._train_model(loaded, start, rows, objective, template, identity)

    def _train_model(
        self,
        loaded: LoadedModel,
        start: StartPoint,
        rows: PreparedRows,
        objective: Objective,
        template: BoundTemplate,
        identity: RunIdentity,
    ) -> TrainingResult:
        config = self._config
        attached = attach_adapter(
            loaded.model,
            config.adapter,
            seed=config.train.seed,
            base_identity=loaded.identity,
            new_modules=loaded.new_modules,
            calibration=[sequence for row in rows.train[:CALIBRATION_ROWS] for sequence in row.sequences],
            original_weights=original_weights(loaded.source),
        )
        if config.adapter.preset is not None:
            self._note(f"preset {config.adapter.preset}: rank {config.adapter.rank}, dropout {config.adapter.dropout:g}")
        self._note(attached.report.describe())
        if self._ranks.is_main:
            record_run(self._run, config, self._provenance(identity, attached.report))
        beside = objective.attach(attached.model, seed=config.train.seed)
        artefacts = ModelArtefacts(attached.model, loaded.tokenizer, loaded.identity, template.contract(), beside)
        with _training_mode(attached.model, config.train):
            self._ranks.copy_from_main(artefacts.parameters().values())
            optimizer = make_optimizer(artefacts.parameters(), config.train)
            beginning = start_of_policy(config, artefacts, rows, objective, ranks=self._ranks, note=self._note)
            progress = self._restore(start, artefacts, optimizer)
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
            loop = assemble_loop(materials, progress, self._stack)
            measurement = RunMeasurement(
                config,
                self._run,
                artefacts,
                beginning,
                progress,
                total_steps=loop.total_steps,
                ranks=self._ranks,
                process_bytes=self._process_bytes,
                is_sampled=isinstance(objective, SampledObjective),
            )
            loop.run()
        if self._ranks.is_main:
            self._publish(artefacts, progress)
            newest = self._run.checkpoints.path(progress.step)
            measurement.end(loop.pace, newest, note=self._note)
        self._ranks.wait()
        return self._result(progress, report=attached.report)

    def _restore(self, start: StartPoint, artefacts: ModelArtefacts, optimizer: NamedOptimizer) -> Progress:
        """Weights, moments and generators of the checkpoint; the generators last, right before the loop."""
        if start.checkpoint is None or start.state is None:
            return Progress()
        artefacts.load_checkpoint(start.checkpoint.path)
        load_optimizer(start.checkpoint.path, optimizer)
        if len(start.state.random) == self._ranks.num:
            random_state.restore(start.state.random[self._ranks.index])
        else:
            self._note(
                f"the checkpoint was written by {len(start.state.random)} processes and is resumed by "
                f"{self._ranks.num}: the data order stays, dropout does not repeat exactly"
            )
        self._note(f"resuming after step {start.state.progress.step}")
        return start.state.progress

    def _publish(self, artefacts: ModelArtefacts, progress: Progress) -> None:
        best = progress.best_step
        if self._config.train.keep_best and best is not None and best != progress.step:
            artefacts.load_checkpoint(self._run.checkpoints.load(best).path)
            self._note(f"the final model is that of step {best}, evaluation loss {progress.best_loss:.4f}")
        try:
            publish_directory(self._run.final_model, artefacts.write_final)
        except (OSError, SafetensorError) as error:
            fault = storage_fault(error)
            if fault is None:
                raise
            raise ResourceError(
                f"{self._run.final_model}: not written ({fault}). The last checkpoint is safe: make room and run "
                "again with --resume."
            ) from error

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

    def _result(self, progress: Progress, *, report: TrainableReport | None) -> TrainingResult:
        return TrainingResult(
            run_dir=self._run.path,
            final_model=self._run.final_model,
            step=progress.step,
            loss=progress.last_loss,
            best_step=progress.best_step,
            best_loss=progress.best_loss,
            report=report,
            was_finished=report is None,
        )

    def _note(self, text: str) -> None:
        if self._ranks.is_main:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _training_mode(model: PeftModel | PreTrainedModel, section: TrainConfig) -> Iterator[None]:
    """Train mode and, if asked for, gradient checkpointing; both are taken back at the end."""
    model.train()
    # Newer transformers rename this from gradient_ to activation_checkpointing.
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if section.gradient_checkpointing:
        options = {f"{kind}_checkpointing_kwargs": {"use_reentrant": False}}
        getattr(model, f"{kind}_checkpointing_enable")(**options)
    try:
        yield
    finally:
        if section.gradient_checkpointing:
            getattr(model, f"{kind}_checkpointing_disable")()
        model.eval()
