"""The forecast of one run: model, rows and settings in; memory, disk, work and time out."""

from collections.abc import Sequence
from dataclasses import dataclass

from peft import PeftModel
from transformers import PreTrainedModel

from loratory.config import RunConfig
from loratory.engine.forecast.activations import KeptPerToken, kept_per_token
from loratory.engine.forecast.adapter_work import THIN_ONLY, adapter_work
from loratory.engine.forecast.disk import DiskSizes, disk_sizes
from loratory.engine.forecast.duration import Computation, Flops, step_flops, step_seconds
from loratory.engine.forecast.machine import Machine
from loratory.engine.forecast.memory import CPU_WORKSPACE, MemoryParts, activation_bytes, logits_bytes, memory_parts
from loratory.engine.forecast.model_size import ModelSize, model_size
from loratory.engine.forecast.work import PassWork, StepWork, pass_work, step_work, unshared_tokens
from loratory.engine.micro_batching import MicroBatching
from loratory.engine.order import BatchPlan
from loratory.engine.precision import autocast_dtype
from loratory.objective.row import Row
from loratory.tree.eligibility import base_of

STACKING_INITS = ("pissa", "olora")
_PROBED_PASSES = 16  # as in `engine.assembly`: shorter runs meet only their own batches


@dataclass(frozen=True, slots=True, eq=False)
class RunForecast:
    """What a run will need.

    Attributes:
        size: The model.
        path: How passes are computed.
        batching: How batches are cut.
        memory: Of the largest pass, by part.
        padded_bytes: Activations and logits of the same rows on the padded path; None if not asked for.
        disk: Files.
        largest: The largest pass.
        steps_per_epoch: Optimizer steps.
        total_steps: Optimizer steps.
        row_tokens: Tokens of an epoch's rows.
        unshared_tokens: Those that a loss depends on.
        computed_tokens: Those of an epoch that are computed, common prefixes once.
        flops: Of an average step.
        step_seconds: Of an average step; None without figures of the machine.
    """

    size: ModelSize
    path: str
    batching: MicroBatching
    memory: MemoryParts
    padded_bytes: int | None
    disk: DiskSizes
    largest: PassWork
    steps_per_epoch: int
    total_steps: int
    row_tokens: int
    unshared_tokens: int
    computed_tokens: int
    flops: Flops
    step_seconds: float | None


@dataclass(frozen=True, slots=True, eq=False)
class ForecastSetting:
    """What a forecast is made for, besides model and rows.

    Attributes:
        config: The run.
        path: The scorer's.
        machine: Figures for time, if there are any.
        process_bytes: Memory before the model is loaded.
        workspace_bytes: Buffers of libraries.
        num_sampled: Steps that are counted; the others are taken to be like them.
        total_steps: Steps of the run if they are not the data's.
        on_cpu: The device is no GPU.
        compares_padded: Tell what the padded path would keep.
    """

    config: RunConfig
    path: str
    machine: Machine | None
    process_bytes: int
    workspace_bytes: int = CPU_WORKSPACE
    num_sampled: int = 16
    total_steps: int | None = None
    on_cpu: bool = True
    compares_padded: bool = False


def forecast_run(
    model: PeftModel | PreTrainedModel,
    rows: Sequence[Row],
    plan: BatchPlan,
    batching: MicroBatching,
    setting: ForecastSetting,
) -> RunForecast:
    """Compute the forecast.

    Args:
        model: The model in training; its weights may be on the meta device.
        rows: Training rows, at least one.
        plan: Which rows each step has.
        batching: How its batches are cut.
        setting: Everything else.
    """
    config, path = setting.config, setting.path
    section = config.train
    size = model_size(model, quantization=config.quantization)
    extra = THIN_ONLY if path == "fused" else adapter_work(model, size)
    kept = kept_of(model, size, config, path=path, on_cpu=setting.on_cpu)
    total = setting.total_steps or plan.total_steps(num_epochs=section.num_epochs, max_steps=section.max_steps)
    steps = [
        step_work([rows[i] for i in plan.rows(index)], batching, path=path)
        for index in sampled(total, setting.num_sampled)
    ]
    largest = largest_pass(rows, steps, batching, size, kept, path=path, batch_size=section.batch_size, total=total)
    how = Computation(size, path, section.gradient_checkpointing, extra)
    seconds = None
    if setting.machine is not None:
        seconds = sum(step_seconds(how, kept, step, setting.machine) for step in steps) / len(steps)
    flops = sum((step_flops(how, step) for step in steps), start=Flops(0, 0, 0, 0))
    row_tokens = sum(row.num_tokens for row in rows)
    share = sum(step.num_tokens(path) for step in steps) / max(1, sum(step.row_tokens for step in steps))
    return RunForecast(
        size=size,
        path=path,
        batching=batching,
        memory=memory_parts(
            size,
            kept,
            largest,
            path=path,
            optimizer=section.optimizer,
            process_bytes=setting.process_bytes,
            workspace_bytes=setting.workspace_bytes,
        ),
        padded_bytes=_padded_bytes(model, size, largest, setting) if setting.compares_padded else None,
        disk=disk_sizes(
            model, optimizer=section.optimizer, stacked_ranks=config.adapter.init.startswith(STACKING_INITS)
        ),
        largest=largest,
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=total,
        row_tokens=row_tokens,
        unshared_tokens=unshared_tokens(rows),
        computed_tokens=round(share * row_tokens),
        flops=flops.over(len(steps)),
        step_seconds=seconds,
    )


def _padded_bytes(
    model: PeftModel | PreTrainedModel, size: ModelSize, largest: PassWork, setting: ForecastSetting
) -> int:
    kept = kept_of(model, size, setting.config, path="padded", on_cpu=setting.on_cpu)
    return activation_bytes(size, kept, largest, path="padded") + logits_bytes(size, largest, path="padded")


def kept_of(
    model: PeftModel | PreTrainedModel, size: ModelSize, config: RunConfig, *, path: str, on_cpu: bool
) -> KeptPerToken:
    """What a token keeps under this configuration."""
    base = base_of(model)
    return kept_per_token(
        base,
        size,
        path=path,
        gradient_checkpointing=config.train.gradient_checkpointing,
        is_mixed=autocast_dtype(config.train, base.dtype) is not None,
        on_cpu=on_cpu,
    )


def sampled(total: int, num: int) -> list[int]:
    """Steps spread evenly over a run; all of them if they are few."""
    if total <= num:
        return list(range(total))
    return sorted({index * (total - 1) // (num - 1) for index in range(num)})


def largest_pass(
    rows: Sequence[Row],
    steps: Sequence[StepWork],
    batching: MicroBatching,
    size: ModelSize,
    kept: KeptPerToken,
    *,
    path: str,
    batch_size: int,
    total: int,
) -> PassWork:
    """The pass that needs most memory: the probe's in a run that has one, else the largest of the run's own."""
    candidates = [each for step in steps for each in step.passes]
    if len(steps[0].passes) * total >= _PROBED_PASSES or total > len(steps):
        candidates.append(pass_work(batching.fullest(rows, max_rows=batch_size)))

    def need(work: PassWork) -> int:
        return activation_bytes(size, kept, work, path=path) + logits_bytes(size, work, path=path)

    return max(candidates, key=need)
