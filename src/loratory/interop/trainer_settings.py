"""Settings of transformers' Trainer, which most tools are built on: their rules, defaults, and joint meaning."""

from collections.abc import Mapping
from typing import Any

from loratory.interop.draft import Draft, put_output_folder
from loratory.interop.rules import (
    Table,
    choice,
    ignored,
    is_off,
    known_elsewhere,
    names_of,
    not_honoured,
    only,
    same_name,
    to,
    together,
)

# What the Trainer takes where a setting is left out, as far as it becomes a value here.
TRAINER_DEFAULTS: Mapping[str, object] = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 3.0,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "optim": "adamw_torch_fused",
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "seed": 42,
    "logging_steps": 500,
    "save_strategy": "steps",
    "save_steps": 500,
    "eval_strategy": "no",
    "per_device_eval_batch_size": 8,
    "load_best_model_at_end": False,
    "bf16": False,
    "fp16": False,
    "report_to": "none",
}
_TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
OPTIMIZERS: Mapping[str, str] = {
    "adamw": "adamw",
    "adamw_hf": "adamw",
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw",
    "paged_adamw_32bit": "paged_adamw",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "sgd": "sgd",
}
SCHEDULES: Mapping[str, str] = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
NO_CLIPPING = 1e9
_RESUME = "give --resume to `loratory train`"
_HARDWARE = "how the work is spread over the machine; the result does not hang on it"
_LAUNCH = "this engine shares work out by itself; start several processes with torchrun or accelerate"


def _read_max_steps(draft: Draft, key: str, value: Any) -> None:
    if isinstance(value, int) and value > 0:
        draft.put("train.max_steps", value, origin=key)


def _read_clipping(draft: Draft, key: str, value: Any) -> None:
    if is_off(value):
        draft.report("approximated", key, f"no clipping is a limit of {NO_CLIPPING:g} here")
    draft.put("train.max_grad_norm", NO_CLIPPING if is_off(value) else value, origin=key)


def _read_trackers(draft: Draft, key: str, value: Any) -> None:
    asked = [name for name in names_of(value) if not is_off(name)]
    known = [name for name in asked if name in _TRACKERS]
    draft.put("run.trackers", known, origin=key)
    if others := [name for name in asked if name not in _TRACKERS]:
        draft.report("ignored", key, f"no tracker {', '.join(others)} here; have {', '.join(_TRACKERS)}")


def _read_logging_steps(draft: Draft, key: str, value: Any) -> None:
    if isinstance(value, int) and value >= 1:
        draft.put("train.logging_steps", value, origin=key)
    else:
        draft.report("ignored", key, "a share of the run; every step is logged")


def _read_best_metric(draft: Draft, key: str, value: Any) -> None:
    if value not in {"loss", "eval_loss"}:
        draft.report("not honoured", key, "the best checkpoint is the one with the lowest evaluation loss")


def _read_sampling(draft: Draft, key: str, value: Any) -> None:
    draft.put("train.group_by_length", value == "group_by_length", origin=key)
    if value not in {"random", "group_by_length"}:
        draft.report("not honoured", key, "rows come in random order")


def read_trust(draft: Draft, key: str, value: Any) -> None:
    """A file cannot ask to run code from a model's folder."""
    if not is_off(value):
        draft.report("ignored", key, "a file cannot ask to run foreign code; pass --trust-remote-code")


TRAINER_RULES: Table = {
    **known_elsewhere("num_train_epochs", "load_best_model_at_end", "per_device_eval_batch_size"),
    **same_name("train", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "seed"),
    **same_name("train", "group_by_length"),
    "lr_scheduler_type": choice("train.schedule", SCHEDULES, fallback="cosine"),
    "optim": choice("train.optimizer", OPTIMIZERS, fallback="adamw"),
    "max_steps": _read_max_steps,
    "max_grad_norm": _read_clipping,
    "logging_steps": _read_logging_steps,
    "save_total_limit": to("train.save_total_limit"),
    "output_dir": put_output_folder,
    "report_to": _read_trackers,
    "project": to("run.project"),
    "metric_for_best_model": _read_best_metric,
    "train_sampling_strategy": _read_sampling,
    **together("per_device_train_batch_size", "gradient_accumulation_steps", "warmup_steps", "warmup_ratio"),
    **together("save_strategy", "save_steps", "eval_strategy", "evaluation_strategy", "eval_steps", "bf16", "fp16"),
    **together("gradient_checkpointing", "activation_checkpointing"),
    **not_honoured("there is nothing like it here", "label_smoothing_factor", "neftune_noise_alpha", "optim_args"),
    **not_honoured("there is nothing like it here", "lr_scheduler_kwargs", "optim_target_modules"),
    **not_honoured("a smaller last batch is trained on too", "dataloader_drop_last"),
    **not_honoured("the order of the rows comes from train.seed", "data_seed"),
    **not_honoured("the batch would depend on the machine", "auto_find_batch_size"),
    **not_honoured(_LAUNCH, "deepspeed", "fsdp", "fsdp_config", "parallelism_config", "accelerator_config"),
    **only((None, True), "the loss is always averaged over all tokens of a batch", "average_tokens_across_devices"),
    **ignored(_RESUME, "resume_from_checkpoint", "ignore_data_skip", "restore_callback_states_from_checkpoint"),
    **ignored("the run directory names the run", "run_name"),
    **ignored("nothing here has to be switched on for it", "do_train", "do_eval", "do_predict", "full_determinism"),
    **ignored("metrics.jsonl and the console are always written", "logging_dir", "logging_strategy", "log_level"),
    **ignored("metrics.jsonl and the console are always written", "logging_first_step", "log_level_replica"),
    **ignored("metrics.jsonl and the console are always written", "log_on_each_node", "logging_nan_inf_filter"),
    **ignored("metrics.jsonl and the console are always written", "include_num_input_tokens_seen", "disable_tqdm"),
    **ignored("the tracker's own settings", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
    **ignored("evaluation computes the loss alone", "prediction_loss_only", "include_for_metrics", "eval_on_start"),
    **ignored("evaluation computes the loss alone", "batch_eval_metrics", "eval_do_concat_batches", "eval_delay"),
    **ignored("evaluation computes the loss alone", "eval_use_gather_object", "eval_accumulation_steps", "label_names"),
    **ignored("evaluation computes the loss alone", "greater_is_better", "bf16_full_eval", "fp16_full_eval"),
    **ignored("checkpoints are complete and published atomically", "save_only_model", "save_on_each_node"),
    **ignored("checkpoints are complete and published atomically", "save_safetensors", "enable_jit_checkpoint"),
    **ignored("checkpoints are complete and published atomically", "overwrite_output_dir"),
    **ignored("nothing is sent anywhere by training", "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id"),
    **ignored("nothing is sent anywhere by training", "hub_strategy", "hub_always_push", "hub_revision"),
    **ignored(_HARDWARE, "torch_compile", "torch_compile_backend", "torch_compile_mode", "use_liger_kernel", "tf32"),
    **ignored(_HARDWARE, "liger_kernel_config", "torch_empty_cache_steps", "use_cache", "use_cpu", "local_rank"),
    **ignored(_HARDWARE, "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
    **ignored(_HARDWARE, "dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order"),
    **ignored(_HARDWARE, "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_timeout"),
    **ignored(_HARDWARE, "ddp_static_graph", "ddp_backend", "debug", "skip_memory_metrics"),
    **ignored(_HARDWARE, "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
    **ignored("columns are chosen by data.format and data.columns", "remove_unused_columns", "length_column_name"),
    **ignored("prediction is `loratory predict`", "predict_with_generate", "generation_max_length", "sortish_sampler"),
    **ignored("prediction is `loratory predict`", "generation_num_beams", "generation_config"),
    "trust_remote_code": read_trust,
}


def finish_trainer(draft: Draft, settings: Mapping[str, Any]) -> None:
    """What the Trainer's settings mean together: batch, warm-up, precision, intervals."""
    put_batch(
        draft,
        micro=settings["per_device_train_batch_size"],
        accumulation=settings["gradient_accumulation_steps"],
        origin="per_device_train_batch_size",
    )
    put_warmup(draft, settings)
    for flag, precision in (("fp16", "float16"), ("bf16", "bfloat16")):
        if settings.get(flag) is True:
            draft.put("train.precision", precision, origin=flag)
    is_checkpointing = settings.get("gradient_checkpointing") or settings.get("activation_checkpointing")
    draft.put("train.gradient_checkpointing", bool(is_checkpointing), origin="gradient_checkpointing")
    _put_intervals(draft, settings)
    if settings.get("save_total_limit") is None:
        draft.remark("approximated", "save_total_limit", "not set: all checkpoints are kept there, the last two here")


def put_batch(draft: Draft, *, micro: object, accumulation: object, origin: str) -> None:
    """Rows per process and pass, passes per step: their product over all processes is the batch here."""
    if not all(isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in (micro, accumulation)):
        draft.remark("not honoured", origin, "batch size and accumulation should be whole numbers above 0")
        return
    assert isinstance(micro, int)
    assert isinstance(accumulation, int)
    draft.put("train.batch_size", micro * accumulation * draft.processes, origin=origin)
    draft.put("train.micro_batch_size", micro, origin=origin)


def put_warmup(draft: Draft, settings: Mapping[str, Any]) -> None:
    """Steps go before the ratio; below 1 they are a ratio. The plain constant schedule has no warm-up."""
    steps, ratio = settings.get("warmup_steps") or 0, settings.get("warmup_ratio") or 0
    if settings.get("lr_scheduler_type") == "constant":
        steps = ratio = 0
    if 0 < steps < 1:
        steps, ratio = 0, steps
    if steps:
        draft.put("train.warmup_steps", int(steps), origin="warmup_steps")
    else:
        draft.put("train.warmup_ratio", ratio, origin="warmup_ratio")
    if steps or ratio:
        draft.remark(
            "approximated",
            "warmup_steps" if steps else "warmup_ratio",
            "each warm-up step has the rate that the next one has there, where the first step has rate 0",
            value=steps or ratio,
        )


def _put_intervals(draft: Draft, settings: Mapping[str, Any]) -> None:
    evaluation = "evaluation_strategy" if "evaluation_strategy" in settings else "eval_strategy"
    eval_steps = settings.get("eval_steps") or settings.get("logging_steps")
    for key, strategy, steps in (
        ("save_steps", "save_strategy", settings.get("save_steps")),
        ("eval_steps", evaluation, eval_steps),
    ):
        value = settings[strategy]
        if value == "steps" and isinstance(steps, int) and steps > 0:
            draft.put(f"train.{key}", steps, origin=key)
        elif value == "steps":
            draft.report("approximated", key, "a share of the run; done at the end of each epoch")
        elif key == "save_steps" and is_off(value):
            draft.report("approximated", strategy, "a checkpoint is still written at the end of each epoch")
        elif value not in {"epoch", "no", False}:
            draft.report("approximated", strategy, "done at the end of each epoch")
        elif is_off(value) and (draft.get("data.validation") or draft.get("data.val_size")):
            draft.remark(
                "approximated", strategy, "validation rows are evaluated at the end of each epoch", value=value
            )
