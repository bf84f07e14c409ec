"""Axolotl's YAML: model, data sets with a type each, adapter, batch per process."""

from collections.abc import Mapping
from typing import Any

from loratory.interop.axolotl_settings import NOT_DONE
from loratory.interop.draft import Draft, Tool, put_output_folder
from loratory.interop.objectives import put_objective
from loratory.interop.peft_adapter import read_init
from loratory.interop.rules import Table, choice, is_off, names_of, same_name, targets_of, to, together
from loratory.interop.trainer_settings import OPTIMIZERS, SCHEDULES, put_batch, read_trust
from loratory.interop.trl import hub_split

_CHAT_TEMPLATES = {
    "tokenizer_default": "chat",
    "chatml": "chatml",
    "alpaca": "alpaca",
    "llama3": "llama3",
    "gemma": "gemma",
    "mistral_v1": "llama2",
    "mistral_v2v3": "mistral",
    "qwen_25": "qwen",
}
_MAX_WARMUP_STEPS = 100
# Parameter below `objective` -> its name there.
_PREFERENCE = {
    "preference.gamma": "simpo_gamma",
    "preference.label_smoothing": "dpo_label_smoothing",
    "preference.desirable_weight": "kto_desirable_weight",
    "preference.undesirable_weight": "kto_undesirable_weight",
}
DEFAULTS: Mapping[str, object] = {
    "output_dir": "./model-out",
    "sequence_len": 512,
    "excess_length_strategy": "drop",
    "train_on_inputs": False,
    "val_set_size": 0.0,
    "gradient_accumulation_steps": 1,
    "micro_batch_size": 1,
    "num_epochs": 1.0,
    "optimizer": "adamw_torch_fused",
    "lr_scheduler": "cosine",
    "weight_decay": 0.0,
    "lora_dropout": 0.0,
    "lora_r": 8,
    "lora_alpha": 8,
    "bf16": "auto",
    "gradient_checkpointing": False,
    "load_in_8bit": False,
    "load_in_4bit": False,
    "save_total_limit": 4,
    "load_best_model_at_end": False,
    "loraplus_lr_embedding": 1e-6,
    "seed": 42,
}


def _read_length_strategy(draft: Draft, key: str, value: Any) -> None:
    words = {"drop": "drop", "truncate": "truncate", "raise": "error"}
    draft.put("data.truncation", words.get(str(value), "drop"), origin=key)
    if value == "truncate":
        draft.report("approximated", key, "a longer row loses the start of its prompt; there it loses its end")


def _read_validation_size(draft: Draft, key: str, value: Any) -> None:
    draft.put("data.val_size", value, origin=key)
    if not is_off(value):
        draft.remark("approximated", key, "as many validation rows, but others: chosen by content hash", value=value)


def _read_checkpointing(draft: Draft, key: str, value: Any) -> None:
    draft.put("train.gradient_checkpointing", not is_off(value), origin=key)
    if isinstance(value, str) and not is_off(value):
        draft.report("approximated", key, "activations are computed again, not moved elsewhere")


def _read_tracker(draft: Draft, key: str, value: Any) -> None:
    if is_off(value):
        return
    trackers = list(draft.get("run.trackers") or [])
    name = "wandb" if key == "wandb_project" else key.removeprefix("use_")
    draft.put("run.trackers", [*trackers, name], origin=key)
    if key == "wandb_project":
        draft.put("run.project", str(value), origin=key)


def _read_special_tokens(draft: Draft, key: str, value: Any) -> None:
    names = set(value) if isinstance(value, Mapping) else set()
    if names <= {"pad_token"}:
        draft.report("ignored", key, "padding is never trained on")
    else:
        draft.report("not honoured", key, "the tokenizer is used as it is")


def _read_linear_targets(draft: Draft, key: str, value: Any) -> None:
    if value is True:
        draft.put("adapter.targets", "all", origin=key)


RULES: Table = {
    "base_model": to("model.model_name_or_path"),
    "tokenizer_config": to("model.tokenizer_name_or_path"),
    "trust_remote_code": read_trust,
    "output_dir": put_output_folder,
    **same_name("quantization", "load_in_8bit", "load_in_4bit"),
    "lora_r": to("adapter.rank"),
    "lora_alpha": to("adapter.alpha"),
    "lora_dropout": to("adapter.dropout"),
    "lora_target_modules": to("adapter.targets", targets_of),
    "special_tokens": _read_special_tokens,
    "lora_target_linear": _read_linear_targets,
    "lora_modules_to_save": to("adapter.modules_to_save", names_of),
    "lora_rank_pattern": to("adapter.rank_pattern"),
    "lora_alpha_pattern": to("adapter.alpha_pattern"),
    "lora_model_dir": to("adapter.path"),
    "peft_use_dora": to("adapter.use_dora"),
    "peft_use_rslora": to("adapter.use_rslora"),
    "peft_init_lora_weights": read_init,
    "sequence_len": to("data.cutoff_len"),
    "excess_length_strategy": _read_length_strategy,
    "val_set_size": _read_validation_size,
    "default_system_message": to("data.system"),
    "optimizer": choice("train.optimizer", OPTIMIZERS, fallback="adamw"),
    "lr_scheduler": choice("train.schedule", SCHEDULES, fallback="cosine"),
    "gradient_checkpointing": _read_checkpointing,
    "load_best_model_at_end": to("train.keep_best"),
    "eval_batch_size": to("predict.batch_size"),
    **same_name("data", "train_on_inputs"),
    **same_name("train", "num_epochs", "max_steps", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2"),
    **same_name("train", "adam_epsilon", "max_grad_norm", "loraplus_lr_ratio", "loraplus_lr_embedding", "seed"),
    **same_name("train", "group_by_length", "save_steps", "eval_steps", "save_total_limit", "logging_steps"),
    **same_name("train", "early_stopping_patience"),
    "wandb_project": _read_tracker,
    "use_tensorboard": _read_tracker,
    "use_mlflow": _read_tracker,
    "use_trackio": _read_tracker,
    **together("adapter", "datasets", "test_datasets", "chat_template", "micro_batch_size", "bf16", "fp16", "bfloat16"),
    **together("gradient_accumulation_steps", "warmup_steps", "warmup_ratio", "rl", "rl_beta", "orpo_alpha"),
    **together(*_PREFERENCE.values()),
    **together("saves_per_epoch", "evals_per_epoch"),
    **NOT_DONE,
}


def _finish(draft: Draft, settings: Mapping[str, Any]) -> None:
    _finish_adapter(draft, settings)
    _finish_data(draft, settings)
    micro, accumulation = settings["micro_batch_size"], settings["gradient_accumulation_steps"]
    put_batch(draft, micro=micro, accumulation=accumulation, origin="micro_batch_size")
    _finish_warmup(draft, settings)
    if settings.get("fp16") is True:
        draft.put("model.dtype", "float16", origin="fp16")
        draft.put("train.precision", "float16", origin="fp16")
    elif settings["bf16"] in {True, "full"}:
        draft.put("model.dtype", "bfloat16", origin="bf16")
        draft.put("train.precision", "bfloat16", origin="bf16")
    elif is_off(settings["bf16"]):
        draft.put("model.dtype", "float32", origin="bf16")
    for key in ("saves_per_epoch", "evals_per_epoch"):
        if settings.get(key) not in (None, 1):
            draft.report("approximated", key, "done at the end of each epoch; for more set the steps between")
    if settings.get("rl") is not None:
        named = {"preference.beta": "orpo_alpha" if settings["rl"] == "orpo" else "rl_beta", **_PREFERENCE}
        parameters = {ours: (theirs, settings.get(theirs)) for ours, theirs in named.items()}
        put_objective(draft, "rl", settings["rl"], parameters)


def _finish_adapter(draft: Draft, settings: Mapping[str, Any]) -> None:
    kind = settings.get("adapter")
    if kind is None:
        draft.values["adapter"] = {"method": "full"}
        return
    if kind not in {"lora", "qlora"}:
        draft.report("not honoured", "adapter", "lora, qlora or nothing (all weights) are read; LoRA is taken")
    if draft.get("adapter.targets") is None:
        draft.put("adapter.targets", "default", origin="lora_target_modules")
    if kind == "qlora" and settings["load_in_4bit"] is not True:
        draft.put("quantization.load_in_4bit", True, origin="adapter")
    if draft.get("quantization.load_in_4bit"):
        draft.put("quantization.bnb_4bit_use_double_quant", True, origin="adapter")


def _finish_warmup(draft: Draft, settings: Mapping[str, Any]) -> None:
    steps, ratio = settings.get("warmup_steps"), settings.get("warmup_ratio")
    if steps:
        draft.put("train.warmup_steps", steps, origin="warmup_steps")
    else:
        draft.put("train.warmup_ratio", ratio or 0.03, origin="warmup_ratio")
        if not ratio:
            reason = f"3 % of the steps, as there, where they are at most {_MAX_WARMUP_STEPS}"
            draft.remark("approximated", "warmup_ratio", reason)


def _finish_data(draft: Draft, settings: Mapping[str, Any]) -> None:
    template = _CHAT_TEMPLATES.get(str(settings.get("chat_template", "tokenizer_default")))
    if template is None:
        draft.report("approximated", "chat_template", "the tokenizer's own chat template is taken")
    train = _sources(draft, "datasets", settings.get("datasets"), template or "chat")
    if train:
        draft.put("data.train", train, origin="datasets")
    validation = _sources(draft, "test_datasets", settings.get("test_datasets"), template or "chat")
    if validation:
        draft.put("data.validation", validation, origin="test_datasets")


def _sources(draft: Draft, key: str, entries: object, template: str) -> list[str]:
    """Names of the sources; form and template are those of the first one."""
    names = []
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if not isinstance(entry, Mapping) or "path" not in entry:
            continue
        place = f"{key}[{index}]"
        path, files = str(entry["path"]), entry.get("data_files")
        if files and (path in {"json", "csv", "parquet"} or entry.get("ds_type")):
            names += names_of(files)
        else:
            names.append(hub_split(path, str(entry.get("split") or "train")))
        _read_form(draft, place, entry, template, is_first=index == 0 and key == "datasets")
    return names


# Type of a source -> data.format and data.template (none: the chat template of the file).
_FORMS = {"alpaca": ("alpaca", "alpaca"), "chat_template": ("chat", ""), "completion": ("text", "auto")}


def _read_form(draft: Draft, place: str, entry: Mapping[str, Any], template: str, *, is_first: bool) -> None:
    kind = entry.get("type")
    form = _FORMS.get(str(kind), ("", ""))
    form = (form[0], form[1] or template)
    columns = {}
    if draft.given.get("rl") is not None:
        draft.put("data.template", template, origin=f"{place}.type")
        reason = "pairs and labelled answers are recognised by their fields; set data.columns for other names"
        draft.remark("approximated", f"{place}.type", reason, value=kind)
    elif not form[0]:
        draft.remark("not honoured", f"{place}.type", "alpaca, chat_template and completion are read", value=kind)
    elif is_first:
        draft.put("data.format", form[0], origin=f"{place}.type")
        draft.put("data.template", form[1], origin=f"{place}.type")
        field = {"completion": ("text", entry.get("field")), "chat_template": ("messages", entry.get("field_messages"))}
        ours, theirs = field.get(str(kind), ("", None))
        if theirs and theirs != ours:
            columns[ours] = str(theirs)
        draft.put("data.columns", columns, origin=place)
    elif draft.get("data.format") != form[0]:
        draft.remark("not honoured", f"{place}.type", f"all sources are read as {draft.get('data.format')}", value=kind)
    known = {"path", "type", "split", "data_files", "ds_type", "field", "field_messages", "roles_to_train"}
    neutral = {"roles_to_train": ["assistant"], "train_on_eos": "turn"}
    for name, value in entry.items():
        if name not in known and not is_off(value) and neutral.get(name) != value:
            draft.remark("not honoured", f"{place}.{name}", "this setting of a source is not read", value=value)


AXOLOTL = Tool("axolotl", "Axolotl", RULES, DEFAULTS, _finish, programs=("axolotl",))
