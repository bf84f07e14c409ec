"""One run file on the bench: its rows, made once, and a forecast for any change of settings or device."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from accelerate import Accelerator
from peft import PeftModel
from transformers import PreTrainedModel

from loratory.adapter.check import attach_without_weights
from loratory.adapter.trainable import TrainableReport
from loratory.config import RunConfig
from loratory.data.sequence import TokenSequence
from loratory.data.templates import bind_template
from loratory.engine.forecast.machine import Machine
from loratory.engine.forecast.memory import CPU_WORKSPACE, GIB
from loratory.engine.forecast.run_forecast import ForecastSetting, RunForecast, forecast_run
from loratory.engine.memory_budget import MemoryRoom, label_share, max_pass_tokens, memory_room, pass_memory
from loratory.engine.micro_batching import MicroBatching
from loratory.engine.order import BatchPlan
from loratory.engine.precision import autocast_dtype
from loratory.engine.prepare import PreparedRows
from loratory.engine.ranks import Ranks
from loratory.engine.ready_rows import ready_rows
from loratory.engine.scoring import choose_scorer
from loratory.errors import ConfigError
from loratory.model import closes_prompt, load_tokenizer
from loratory.model.empty_model import empty_model
from loratory.objective import Objective, make_objective
from loratory.objective.row import Row
from loratory.objective.sampled import SampledObjective
from loratory.plan.devices import Device
from loratory.tree.eligibility import base_of

_GPU_WORKSPACE = 128 * 2**20  # cuBLAS and what the caching allocator cannot use
_NUM_SAMPLED = 64


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a run would be.

    Attributes:
        machine: Figures for its time, if there are any.
        device: A GPU of the table; None: this machine.
        process_bytes: Memory of a process before its model is loaded.
        memory_bytes: What the process may use in all; None: what this machine has free.
    """

    machine: Machine | None
    device: Device | None
    process_bytes: int
    memory_bytes: int | None = None


@dataclass(eq=False)
class Workbench:
    """See the module.

    Attributes:
        config: The run file.
        rows: Its rows.
        objective: Its objective.
    """

    config: RunConfig
    rows: PreparedRows
    objective: Objective
    _models: dict[str, tuple[PeftModel | PreTrainedModel, TrainableReport]] = field(default_factory=dict)
    _shorter: dict[int, "Workbench"] = field(default_factory=dict)

    def model(self, config: RunConfig, place: Place) -> tuple[PeftModel | PreTrainedModel, TrainableReport]:
        """The model in training, without weights, and what is trained.

        Raises:
            ModelError, AdapterError: As training would.
        """
        device, has_bfloat16 = _torch_device(place), place.device.has_bfloat16 if place.device else None
        sections = (config.model, config.adapter, config.quantization)
        key = "\n".join([*(section.model_dump_json() for section in sections), str(device), str(has_bfloat16)])
        if key not in self._models:
            head = self.objective.head(seed=config.train.seed)
            base = empty_model(config.model, device=device, has_bfloat16=has_bfloat16, head=head).model
            attached = attach_without_weights(config.adapter, base, quantization=config.quantization)
            self._models[key] = (attached.model.train(), attached.report)
        return self._models[key]

    def shortened(self, cutoff_len: int) -> "Workbench":
        """The same bench with rows that lost the start of their prompts; itself when all are short enough."""
        if all(len(s) <= cutoff_len for row in self.rows.train for s in row.sequences):
            return self
        if cutoff_len not in self._shorter:
            rows = tuple(_shortened(row, cutoff_len) for row in self.rows.train)
            shorter = Workbench(self.config, replace(self.rows, train=rows), self.objective, self._models)
            self._shorter[cutoff_len] = shorter
        return self._shorter[cutoff_len]

    def forecast(self, config: RunConfig, place: Place) -> RunForecast:
        """What the run needs there."""
        model, _ = self.model(config, place)
        device = _torch_device(place)
        path = choose_scorer(model, config.train, device).path
        if path == "fused" and (config.quantization.is_active or place.device is not None):
            path = "tree"  # the fused layers read plain weights on a CPU
        section = config.train
        lengths = [row.num_tokens for row in self.rows.train] if section.group_by_length else None
        plan = BatchPlan(
            len(self.rows.train),
            section.batch_size,
            seed=section.seed,
            group_lengths=lengths,
            mixture=self.rows.mixture,
        )
        setting = ForecastSetting(
            config=config,
            path=path,
            machine=place.machine,
            process_bytes=place.process_bytes,
            workspace_bytes=CPU_WORKSPACE if place.device is None else _GPU_WORKSPACE,
            num_sampled=_NUM_SAMPLED,
            on_cpu=place.device is None,
            compares_padded=True,
        )
        return forecast_run(model, self.rows.train, plan, self._batching(config, model, path, place), setting)

    def _batching(
        self, config: RunConfig, model: PeftModel | PreTrainedModel, path: str, place: Place
    ) -> MicroBatching:
        """As `engine.scoring` chooses it, with the memory there would be."""
        section, base = config.train, base_of(model)
        tokens = section.max_tokens_per_micro_batch
        if tokens is None and section.micro_batch_size is None:
            memory = pass_memory(
                model,
                base,
                path=path,
                optimizer=section.optimizer,
                supervised_share=label_share(self.rows.train),
                gradient_checkpointing=section.gradient_checkpointing,
                is_mixed=autocast_dtype(section, base.dtype) is not None,
                on_cpu=place.device is None,
            )
            weights = sum(p.numel() * p.element_size() for p in model.parameters())
            weights = weights // 4 if config.quantization.is_active else weights
            tokens = max_pass_tokens(memory, _room(section.memory_budget_gib, weights, place), _torch_device(place))
        return MicroBatching(section.micro_batch_size, tokens, shares_prefixes=path != "padded")


def open_workbench(config: RunConfig, *, note: Callable[[str], None]) -> Workbench:
    """Tokenise the rows of a run file, or take them from the cache.

    Raises:
        UserError: Model, tokenizer, template or rows that training would refuse too.
        ConfigError: The policy would make its rows itself.
    """
    if config.objective.name in ("ppo", "grpo", "rloo"):
        raise ConfigError(
            f"objective.name: '{config.objective.name}' lets the policy write its rows while it trains, so they cannot "
            "be counted before; plan the same run with objective.name=sft to see sizes, memory and files"
        )
    objective = make_objective(config.objective, batch_size=config.train.batch_size)
    assert not isinstance(objective, SampledObjective)
    template = bind_template(
        config.data.template,
        load_tokenizer(config.model),
        train_on_inputs=config.data.train_on_inputs,
        add_eos_token=config.data.add_eos_token,
        closes_prompt=closes_prompt(config.model),
    )
    rows = ready_rows(config, template, objective, ranks=Ranks(Accelerator()), note=note)
    objective.learn_labels(rows.train, rows.validation, is_split=config.data.validation is None)
    return Workbench(config, rows, objective)


def _shortened(row: Row, cutoff_len: int) -> Row:
    return replace(row, sequences=tuple(_end_of(sequence, cutoff_len) for sequence in row.sequences))


def _end_of(sequence: TokenSequence, length: int) -> TokenSequence:
    if len(sequence) <= length:
        return sequence
    weights = sequence.weights[-length:].copy()
    weights[0] = 0.0
    lost = len(sequence) - length
    return TokenSequence(sequence.token_ids[-length:], weights, max(0, sequence.prompt_length - lost))


def _room(budget_gib: float | None, weights: int, place: Place) -> MemoryRoom:
    used = place.process_bytes + weights
    limit = place.memory_bytes if place.memory_bytes is not None else (int(budget_gib * GIB) if budget_gib else None)
    if limit is not None:
        return MemoryRoom(used, max(0, limit - used), limit, is_given=True)
    free = memory_room(torch.device("cpu"), budget_gib=None)
    return MemoryRoom(used, max(0, free.budget_bytes - int(0.7 * weights)), free.limit_bytes, is_given=False)


def _torch_device(place: Place) -> torch.device:
    return torch.device("cpu" if place.device is None else "cuda")
