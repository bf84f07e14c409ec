"""The flags of alpaca-lora's `finetune.py` and of LLM-Pruner's `post_training.py`, which grew out of it.

Both fix much that is no flag: float16, 100 warm-up steps, a linear schedule, checkpoints every 200 steps.
"""

from collections.abc import Mapping
from typing import Any

from loratory.interop import rules
from loratory.interop.draft import Draft, Tool, put_output_folder

TEMPLATE_FOLDER = "templates"
_KNOWN_TEMPLATES = ("alpaca", "alpaca_legacy", "alpaca_short", "vigogne")
_ALL_PROJECTIONS = "q_proj,k_proj,v_proj,o_proj,gate_proj,down_proj,up_proj"

FIXED_WARMUP_STEPS = 100
FIXED_SAVE_STEPS = 200
FIXED_LOGGING_STEPS = 10


def _read_length(draft: Draft, key: str, value: Any) -> None:
    draft.put("data.cutoff_len", value, origin=key)
    draft.put("data.truncation", "truncate", origin=key)
    draft.remark(
        "approximated", key, "a longer row loses the start of its prompt; there it loses the answer's end", value=value
    )


def _read_validation(draft: Draft, key: str, value: Any) -> None:
    draft.put("data.val_size", value, origin=key)
    if not rules.is_off(value):
        draft.remark("approximated", key, "as many validation rows, but others: chosen by content hash", value=value)


def _read_template(draft: Draft, key: str, value: Any) -> None:
    name = str(value)
    if name in _KNOWN_TEMPLATES or name.endswith(".json"):
        draft.put("data.template", name, origin=key)
    else:
        draft.put("data.template", f"{TEMPLATE_FOLDER}/{name}.json", origin=key)


def _read_project(draft: Draft, key: str, value: Any) -> None:
    if not rules.is_off(value):
        draft.put("run.trackers", ["wandb"], origin=key)
        draft.put("run.project", str(value), origin=key)


RULES: rules.Table = {
    **rules.known_elsewhere("base_model", "data_path", "lora_r", "lora_alpha", "lora_dropout"),
    **rules.same_name("train", "num_epochs", "learning_rate", "group_by_length"),
    **rules.same_name("data", "train_on_inputs"),
    "lora_target_modules": rules.to("adapter.targets", rules.targets_of),
    "cutoff_len": _read_length,
    "val_set_size": _read_validation,
    "prompt_template_name": _read_template,
    "output_dir": put_output_folder,
    "wandb_project": _read_project,
    **rules.together("batch_size", "micro_batch_size"),
    **rules.ignored("the end token is trained with and without it, there and here", "add_eos_token"),
    **rules.ignored("the run directory names the run", "wandb_run_name"),
    **rules.ignored("metrics are logged, not weights", "wandb_watch", "wandb_log_model"),
    **rules.ignored("give --resume to `loratory train`", "resume_from_checkpoint"),
}
DEFAULTS: Mapping[str, object] = {
    "data_path": "yahma/alpaca-cleaned",
    "output_dir": "./lora-alpaca",
    "batch_size": 128,
    "micro_batch_size": 4,
    "num_epochs": 3,
    "learning_rate": 3e-4,
    "cutoff_len": 256,
    "val_set_size": 2000,
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_target_modules": "q_proj,v_proj",
    "train_on_inputs": True,
    "group_by_length": False,
    "prompt_template_name": "alpaca",
}
PRUNER_RULES: rules.Table = {
    **RULES,
    "prune_model": rules.to("model.model_name_or_path"),
    **rules.ignored("the pruned model brings its own tokenizer and shapes", "base_model"),
    **rules.ignored("tokenised rows are kept anyway", "cache_dataset"),
    **rules.ignored("start several processes with torchrun", "local_rank"),
    **rules.not_honoured("text perplexity is `loratory evaluate`, after training", "extra_val_dataset"),
    **rules.together("no_instruction"),
}
PRUNER_DEFAULTS: Mapping[str, object] = {
    **DEFAULTS,
    "num_epochs": 5,
    "lora_target_modules": _ALL_PROJECTIONS,
    "train_on_inputs": False,
    "no_instruction": False,
}


def _finish(draft: Draft, settings: Mapping[str, Any]) -> None:
    _finish_fixed(draft, settings, processes=draft.processes)
    draft.put("train.save_total_limit", 3, origin="(fixed)")
    draft.put("train.eval_steps", 200, origin="(fixed)")
    draft.put("quantization.load_in_8bit", True, origin="(fixed)")
    draft.remark("approximated", "(fixed) load_in_8bit", "the base is kept in 8 bits; without a GPU set it to false")


def _finish_pruner(draft: Draft, settings: Mapping[str, Any]) -> None:
    # This script divides by the processes nowhere: each adds its own rows to the batch.
    _finish_fixed(draft, settings, processes=1)
    if draft.get("train.batch_size") is not None:
        draft.put("train.batch_size", draft.get("train.batch_size") * draft.processes, origin="batch_size")
    draft.put("train.save_total_limit", 20, origin="(fixed)")
    draft.put("train.eval_steps", 100, origin="(fixed)")
    if settings["no_instruction"] is True:
        draft.put("data.template", "plain", origin="no_instruction")
        draft.report("approximated", "no_instruction", "the answer follows the bare instruction and input")


def _finish_fixed(draft: Draft, settings: Mapping[str, Any], *, processes: int) -> None:
    """What both scripts fix, and the batch, of which passes per process are a whole number."""
    batch, micro = settings["batch_size"], settings["micro_batch_size"]
    if all(isinstance(each, int) and each > 0 for each in (batch, micro)):
        accumulation = batch // micro // processes
        whole = max(1, accumulation) * micro * processes
        if whole != batch:
            reason = f"{accumulation} passes of {micro} rows on {processes} processes are {whole} rows a step"
            draft.remark("approximated", "batch_size", reason, value=batch)
        draft.put("train.batch_size", whole, origin="batch_size")
        draft.put("train.micro_batch_size", micro, origin="micro_batch_size")
    else:
        draft.remark("not honoured", "batch_size", "batch sizes should be whole numbers above 0")
    draft.put("model.dtype", "float16", origin="(fixed)")
    draft.put("train.precision", "float16", origin="(fixed)")
    draft.put("train.schedule", "linear", origin="(fixed)")
    draft.put("train.warmup_steps", FIXED_WARMUP_STEPS, origin="(fixed)")
    draft.put("train.save_steps", FIXED_SAVE_STEPS, origin="(fixed)")
    draft.put("train.logging_steps", FIXED_LOGGING_STEPS, origin="(fixed)")
    draft.put("train.gradient_checkpointing", True, origin="(fixed)")
    draft.put("train.keep_best", True, origin="(fixed)")
    draft.put("data.format", "alpaca", origin="(fixed)")
    draft.remark("approximated", "(fixed) warmup_steps", "each warm-up step has the rate that the next one has there")


ALPACA_LORA = Tool("alpaca-lora", "alpaca-lora", RULES, DEFAULTS, _finish, programs=("finetune.py",))
LLM_PRUNER = Tool(
    "llm-pruner",
    "LLM-Pruner's post-training",
    PRUNER_RULES,
    PRUNER_DEFAULTS,
    _finish_pruner,
    programs=("post_training.py",),
)
